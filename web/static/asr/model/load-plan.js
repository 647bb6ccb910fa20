/** What loading a model involves, known before anything is loaded: device, precision, files and their sizes. */

import { candidates, chooseDevice } from "./device.js";
import { ModelRepository } from "./files.js";
import { resolveModel } from "./model-list.js";

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
