/** What loading a model involves, known before anything is loaded: device, precision, files and their sizes. */

import { candidates, chooseDevice } from "./device.js";
import { CACHE_NAME } from "./cache-name.js";
import { ModelRepository } from "./files.js";
import { resolveModel } from "./model-list.js";
import { serverUrl } from "../../voice/server-url.js";
import { vendored } from "./vendored.js";

const HUB = serverUrl("api/hf/");

const SMALL_FILES = [
  "config.json",
  "generation_config.json",
  "preprocessor_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

/**
 * `{base, model, revision?, dtype?, device?, acceptSoftware?}` → {repository, revision, device, reason, dtype,
 * files}: `dtype` by session, `files` in the order in which they are fetched.
 */
export async function planLoad({ base, model, revision, dtype = null, device = "auto", acceptSoftware = false }) {
  const resolved = resolveModel(model, revision);
  const repository = new ModelRepository({ base, ...resolved });
  const chosen = await chooseDevice(device, { acceptSoftware });
  const dtypes = {};
  const files = [...SMALL_FILES];
  for (const [session, options] of Object.entries(candidates(chosen, dtype))) {
    const file = await repository.firstOf(options.map((option) => option.file));
    dtypes[session] = options.find((option) => option.file === file).dtype;
    files.push(file);
  }
  return { repository: resolved.repository, revision: resolved.revision, ...chosen, dtype: dtypes, files };
}

/** The same, with each file as {file, bytes, cached}. */
export async function planWithSizes(settings) {
  const plan = await planLoad(settings);
  const repository = new ModelRepository({ base: settings.base, ...plan });
  const files = await Promise.all(plan.files.map((file) => repository.describe(file)));
  return { ...plan, files: files.filter((file) => file !== null) };
}

/**
 * What is stored in this browser, without asking the hub: {device, reason, files: [{file, bytes, cached}]}, where a
 * file that is not cached has no size.
 */
export async function planStored({ base, model, revision, dtype = null, device = "auto", acceptSoftware = false }) {
  const resolved = resolveModel(model, revision);
  const repository = new ModelRepository({ base, ...resolved });
  const chosen = await chooseDevice(device, { acceptSoftware });
  const sessions = Object.values(candidates(chosen, dtype));
  const options = [...SMALL_FILES.map((file) => [file]), ...sessions.map((some) => some.map(({ file }) => file))];
  const files = await Promise.all(options.map((names) => repository.firstStored(names)));
  return { ...chosen, files };
}

/** Those of `models` (entries of MODELS) that can be loaded without a network, one after the other. */
export async function* storedModels(models, settings = {}) {
  const { runtime, transformers } = vendored();
  if (!runtime || !transformers || globalThis.caches === undefined) return;
  if (!(await caches.has(CACHE_NAME))) return; // nothing was ever stored
  for (const model of models) {
    const { files } = await planStored({ base: HUB, ...settings, model: model.name, revision: model.revision });
    if (files.every(({ cached }) => cached)) yield model;
  }
}

/** The first of them; null if there is none. */
export async function storedModel(models) {
  for await (const model of storedModels(models)) return model;
  return null;
}
