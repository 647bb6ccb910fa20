/** The page's side of the VAD worker: requests and their responses, stream messages to their stream. */

import { AsrError } from "../errors.js";

export class VadClient {
  /** `vendor` {runtime, vad}: URLs of the packages. */
  constructor(vendor) {
    this._vendor = vendor;
    this._worker = null;
    this._waiting = new Map();
    this._nextId = 0;
    this._onMessage = () => {};
  }

  /** The speech runs {start, end} in a recording, in samples, padded. */
  async findSpeech(samples, vad) {
    await this._ensureOpen();
    return this._request({ kind: "find_speech", samples, vad });
  }

  /** Start a stream; `onMessage` gets the messages of stream-segmenter.js, and {kind: "processed", count}. */
  async startStream(vad, onMessage) {
    await this._ensureOpen();
    this._stream = (this._stream ?? 0) + 1;
    this._onMessage = onMessage;
    return this._request({ kind: "start_stream", stream: this._stream, vad });
  }

  push(samples) {
    this._request({ kind: "push", samples }, [samples.buffer]).catch((error) =>
      this._onMessage({ kind: "failed", error }),
    );
  }

  skip(samples) {
    return this._request({ kind: "skip", samples });
  }

  /** End the open utterance. Resolves when everything pushed before is processed. */
  flush() {
    return this._request({ kind: "flush" });
  }

  endStream() {
    this._onMessage = () => {};
    this._stream += 1;
  }

  close() {
    this._worker?.terminate();
    this._worker = null;
    for (const { reject } of this._waiting.values()) reject(new AsrError("closed", "The transcriber is closed."));
    this._waiting.clear();
  }

  async _ensureOpen() {
    if (this._worker === null) {
      this._worker = new Worker(new URL("./vad-worker.js", import.meta.url), { type: "module" });
      this._worker.onmessage = ({ data }) => this._receive(data);
      this._worker.onerror = ({ message }) => this._fail(AsrError.ofWorker("Voice activity detection", message));
    }
    await this._request({ kind: "open", assets: { runtime: this._vendor.runtime, model: this._vendor.vad } });
  }

  _request(request, parts = []) {
    return new Promise((resolve, reject) => {
      this._nextId += 1;
      this._waiting.set(this._nextId, { resolve, reject });
      this._worker.postMessage({ ...request, id: this._nextId }, parts);
    });
  }

  _receive(message) {
    if (message.kind !== "done" && message.kind !== "failed") {
      if (message.stream === this._stream) this._onMessage(message);
      return;
    }
    const { resolve, reject } = this._waiting.get(message.id);
    this._waiting.delete(message.id);
    if (message.kind === "done") resolve(message.result);
    else reject(new AsrError("crashed", `Voice activity detection failed: ${message.message}`));
  }

  _fail(trouble) {
    const waiting = [...this._waiting.values()];
    this._waiting.clear();
    this._worker.terminate();
    this._worker = null;
    for (const { reject } of waiting) reject(trouble);
  }
}
