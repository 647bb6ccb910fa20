/**
 * What goes wrong has a name for programs and a sentence for people.
 *
 * `code` is one of: `missing` (vendored files), `gone`, `gated`, `refused`, `unreachable`, `cut`, `storage`
 * (files of a model), `load` (a model that does not run), `options`, `stalled`, `crashed`, `cancelled`,
 * `closed`, `busy` and `empty`.
 */

export class Trouble extends Error {
  constructor(code, message, facts = {}) {
    super(message);
    this.name = "Trouble";
    this.code = code;
    this.facts = facts; // file, status: what the sentence is about
  }

  /** As it goes through a MessagePort. */
  static pack(error) {
    const { code = "crashed", message, facts = {} } = error;
    return { code, message: error instanceof Trouble ? message : `${error}`, facts };
  }

  static unpack({ code, message, facts }) {
    return new Trouble(code, message, facts);
  }
}
