/**
 * Where the third-party packages are served; they come from this server only and may not be installed.
 *
 * The server lists the installed packages in the page: `<link rel="vendored" title="…" href="…">`.
 */

import { AsrError } from "../errors.js";

const PACKAGES = {
  transformers: "@huggingface/transformers",
  runtime: "onnxruntime-web",
  vad: "@ricky0123/vad-web",
};

/** {transformers, runtime, vad}: the URL of each package, null if it is not installed. */
export function vendored() {
  const hrefOf = (name) => document.querySelector(`link[rel="vendored"][title="${name}"]`)?.href ?? null;
  return Object.fromEntries(Object.entries(PACKAGES).map(([key, name]) => [key, hrefOf(name)]));
}

/** `urls`, if none is null. Throws AsrError with the code `missing`. */
export function requireVendored(urls) {
  const missing = Object.keys(PACKAGES).filter((key) => !urls[key]);
  if (missing.length === 0) return urls;
  const names = missing.map((key) => PACKAGES[key]).join(", ");
  throw new AsrError("missing", `Not installed on the server: ${names}. Run “python -m web.vendor” there.`);
}
