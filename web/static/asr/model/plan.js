/**
 * Before anything is loaded it is known what will be: the device, the precision, the files and their sizes.
 */

import { candidates, chooseDevice } from "./device.js";
import { Repository } from "./files.js";
import { findModel } from "./models.js";

const SMALL_FILES = [
  "config.json",
  "generation_config.json",
  "preprocessor_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

/**
 * `{base, model, revision?, dtype?, device?, acceptSoftware?}` → {repository, revision, device, reason, dtype,
 * files}: `dtype` by session, `files` the names in the order they are fetched.
 */
export async function planLoad({ base, model, revision, dtype = null, device = "auto", acceptSoftware = false }) {
  const found = findModel(model, revision);
  const repository = new Repository({ base, ...found });
  const chosen = await chooseDevice(device, { acceptSoftware });
  const dtypes = {};
  const files = [...SMALL_FILES];
  for (const [session, options] of Object.entries(candidates(chosen, dtype))) {
    const file = await repository.firstOf(options.map((option) => option.file));
    dtypes[session] = options.find((option) => option.file === file).dtype;
    files.push(file);
  }
  return { repository: found.repository, revision: found.revision, ...chosen, dtype: dtypes, files };
}

/** The same with what is known of each file: {file, bytes, cached}. */
export async function sizeUp(settings) {
  const plan = await planLoad(settings);
  const repository = new Repository({ base: settings.base, ...plan });
  const files = await Promise.all(plan.files.map((file) => repository.look(file)));
  return { ...plan, files: files.filter((file) => file !== null) };
}
