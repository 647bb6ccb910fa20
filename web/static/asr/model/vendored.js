/**
 * Third-party files come from this server or not at all; where they are missing, a page says what to run.
 *
 * The server names the packages that are installed in the page: `<link rel="vendored" title="…" href="…">`.
 */

import { Trouble } from "../errors.js";

const PACKAGES = {
  transformers: "@huggingface/transformers",
  runtime: "onnxruntime-web",
  vad: "@ricky0123/vad-web",
};

/** {transformers, runtime, vad}: the folder of each package, null where it is not installed. */
export function vendored() {
  const hrefOf = (name) => document.querySelector(`link[rel="vendored"][title="${name}"]`)?.href ?? null;
  return Object.fromEntries(Object.entries(PACKAGES).map(([key, name]) => [key, hrefOf(name)]));
}

/** The same addresses; throws where one is missing. */
export function needed(urls) {
  const missing = Object.keys(PACKAGES).filter((key) => !urls[key]);
  if (missing.length === 0) return urls;
  const names = missing.map((key) => PACKAGES[key]).join(", ");
  throw new Trouble("missing", `The server lacks ${names}: run python -m web.vendor (or make vendor) there.`);
}
