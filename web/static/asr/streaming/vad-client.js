/** The page's half of the ear: orders go out, answers come back to whom they belong. */

import { Trouble } from "../errors.js";

export class Ear {
  /** `vendor` {runtime, vad}: where the packages lie. */
  constructor(vendor) {
    this._vendor = vendor;
    this._worker = null;
    this._waiting = new Map();
    this._nextId = 0;
    this._heed = () => {};
  }

  /** The runs of speech {start, end} in a recording, padded, in samples. */
  async cut(samples, vad) {
    await this._open();
    return this._order({ kind: "cut", samples, vad });
  }

  /** From here on the sound is a stream; `heed` is told of what `listening.js` names, and of `heard`. */
  async begin(vad, heed) {
    await this._open();
    this._stream = (this._stream ?? 0) + 1;
    this._heed = heed;
    return this._order({ kind: "begin", stream: this._stream, vad });
  }

  hear(samples) {
    this._order({ kind: "hear", samples }, [samples.buffer]).catch((error) =>
      this._heed({ kind: "failed", error }),
    );
  }

  skip(samples) {
    return this._order({ kind: "skip", samples });
  }

  /** Done when all that came before is heard. */
  flush() {
    return this._order({ kind: "flush" });
  }

  end() {
    this._heed = () => {};
    this._stream += 1;
  }

  close() {
    this._worker?.terminate();
    this._worker = null;
    for (const { reject } of this._waiting.values()) reject(new Trouble("closed", "The transcriber is closed."));
    this._waiting.clear();
  }

  async _open() {
    if (this._worker === null) {
      this._worker = new Worker(new URL("./vad-worker.js", import.meta.url), { type: "module" });
      this._worker.onmessage = ({ data }) => this._receive(data);
      this._worker.onerror = (event) =>
        this._fail(new Trouble("crashed", `Voice detection ended: ${event.message}`));
    }
    await this._order({ kind: "open", assets: { runtime: this._vendor.runtime, model: this._vendor.vad } });
  }

  _order(order, parts = []) {
    return new Promise((resolve, reject) => {
      this._nextId += 1;
      this._waiting.set(this._nextId, { resolve, reject });
      this._worker.postMessage({ ...order, id: this._nextId }, parts);
    });
  }

  _receive(message) {
    if (message.kind !== "done" && message.kind !== "failed") {
      if (message.stream === this._stream) this._heed(message);
      return;
    }
    const { resolve, reject } = this._waiting.get(message.id);
    this._waiting.delete(message.id);
    if (message.kind === "done") resolve(message.result);
    else reject(new Trouble("crashed", `Voice detection failed: ${message.message}`));
  }

  _fail(trouble) {
    const waiting = [...this._waiting.values()];
    this._waiting.clear();
    this._worker.terminate();
    this._worker = null;
    for (const { reject } of waiting) reject(trouble);
  }
}
