/**
 * Errors of the transcription engine: a code for programs and a sentence for people.
 *
 * `code` is one of: `missing` (vendored files); `offline` (no connection to the server); `gone`, `gated`, `refused`,
 * `unreachable`, `cut`, `storage`, `server_storage` (model files), or the code with which the server refuses the page,
 * such as `unauthorized`; `load` (the model cannot run on this device); `options`, `stalled`, `crashed`, `cancelled`,
 * `closed`, `busy` and `empty`.
 */

export class AsrError extends Error {
  constructor(code, message, facts = {}) {
    super(message);
    this.name = "AsrError";
    this.code = code;
    this.facts = facts; // details of the failure: file, status
  }

  /** Of a worker's `error` event, without a `message` where its script, or one that it imports, could not be loaded. */
  static ofWorker(what, message) {
    if (!message) return new AsrError("offline", "The server does not deliver this program.");
    return new AsrError("crashed", `${what} stopped: ${message}`);
  }

  /** A plain object that can be sent through a MessagePort. */
  static pack(error) {
    const { code = "crashed", message, facts = {} } = error;
    return { code, message: error instanceof AsrError ? message : `${error}`, facts };
  }

  static unpack({ code, message, facts }) {
    return new AsrError(code, message, facts);
  }
}
