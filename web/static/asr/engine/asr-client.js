/**
 * Supervises the Whisper worker: one that hangs or crashes is terminated and replaced.
 *
 * One clip at a time. The worker keeps no state between clips, so a new one, loaded from the browser's cache,
 * continues where the old one stopped. It is also replaced after a number of clips or seconds of audio, before
 * memory that the runtime does not free accumulates (hundreds of MB have been reported on WebGPU).
 */

import { AsrError } from "../errors.js";

export const LIMITS = Object.freeze({
  stallMs: 90_000, // between two messages: an encoder pass, or a token
  clipMs: 300_000, // for one clip in total
  loadMs: 180_000, // between two messages while a model is loading
  clips: Object.freeze({ webgpu: 60, wasm: 600 }), // before the worker is replaced
  audioS: Object.freeze({ webgpu: 600, wasm: 6000 }),
});

const RATE_HZ = 16_000;

export class AsrClient {
  /** `onEvent` receives `progress` events and {type: "recycled", reason}. */
  constructor({ onEvent, limits = {} }) {
    this._onEvent = onEvent;
    this.limits = { ...LIMITS, ...limits };
    this._worker = null;
    this._settings = null;
    this._loaded = null; // promise of the worker's response to `load`
    this._pending = null; // the one outstanding request
    this._queue = Promise.resolve();
    this._nextId = 0;
  }

  /** Load a model. → the worker's description of it. */
  load(settings) {
    this._settings = settings;
    this._terminate();
    return this._ensureLoaded();
  }

  get isLoaded() {
    return this._settings !== null;
  }

  /** Decode one clip; clips are queued. */
  decode(samples, options) {
    const result = this._queue.then(() => this._decode(samples, options));
    this._queue = result.catch(() => {});
    return result;
  }

  /** Cancel the clip being decoded. */
  cancel() {
    this._worker?.postMessage({ kind: "cancel" });
  }

  close() {
    this._settings = null;
    this._terminate();
  }

  async _decode(samples, options) {
    for (let attempts = 2; ; attempts -= 1) {
      const { device } = await this._ensureLoaded();
      try {
        const result = await this._request({ kind: "decode", samples, options }, this.limits.stallMs);
        this._countUsage(device, samples.length);
        return result;
      } catch (error) {
        if (error.code !== "stalled" && error.code !== "crashed") throw error;
        this._recycle(error.code);
        if (error.code === "stalled" || attempts === 1) throw error; // a clip that hung would hang again
      }
    }
  }

  _ensureLoaded() {
    if (this._settings === null) return Promise.reject(new AsrError("closed", "No model is loaded."));
    if (this._loaded === null) {
      this._clips = 0;
      this._samples = 0;
      this._worker = new Worker(new URL("./asr-worker.js", import.meta.url), { type: "module" });
      this._worker.onmessage = ({ data }) => this._receive(data);
      this._worker.onerror = (event) => this._crash(event.message);
      const loaded = this._request({ kind: "load", settings: this._settings }, this.limits.loadMs);
      loaded.catch(() => {
        if (this._loaded === loaded) this._terminate();
      });
      this._loaded = loaded;
    }
    return this._loaded;
  }

  /** Send a request. → its response; rejected with `stalled` after `stallMs` without a message. */
  _request(request, stallMs) {
    return new Promise((resolve, reject) => {
      this._nextId += 1;
      this._pending = { id: this._nextId, resolve, reject, stallMs };
      if (request.kind === "decode") this._pending.clip = this._startTimeout(this.limits.clipMs);
      this._pending.stall = this._startTimeout(stallMs);
      this._worker.postMessage({ ...request, id: this._nextId });
    });
  }

  _startTimeout(ms) {
    const error = new AsrError("stalled", `Whisper did not respond for ${ms / 1000} s.`);
    return setTimeout(() => this._complete({ error }), ms);
  }

  _receive(message) {
    if (message.kind === "done" || message.kind === "failed") {
      if (message.id !== this._pending?.id) return;
      if (message.kind === "done") this._complete({ result: message.result });
      else this._complete({ error: AsrError.unpack(message.error) });
      return;
    }
    if (this._pending !== null) {
      clearTimeout(this._pending.stall);
      this._pending.stall = this._startTimeout(this._pending.stallMs);
    }
    if (message.kind === "progress") {
      this._onEvent({ type: "progress", file: message.file, loaded: message.loaded, total: message.total });
    }
  }

  _complete({ result, error }) {
    const pending = this._pending;
    if (pending === null) return;
    this._pending = null;
    clearTimeout(pending.clip);
    clearTimeout(pending.stall);
    if (error === undefined) pending.resolve(result);
    else pending.reject(error);
  }

  _crash(message) {
    if (this._pending === null) this._recycle("crashed");
    else this._complete({ error: AsrError.ofWorker("Whisper", message) });
  }

  _countUsage(device, samples) {
    this._clips += 1;
    this._samples += samples;
    if (this._clips >= this.limits.clips[device]) this._recycle("clips");
    else if (this._samples >= this.limits.audioS[device] * RATE_HZ) this._recycle("audio");
  }

  /** Replace the worker, loading the new one ahead of the next request. */
  _recycle(reason) {
    this._terminate();
    this._onEvent({ type: "recycled", reason });
    this._ensureLoaded().catch(() => {}); // the next request reports the error
  }

  _terminate() {
    this._worker?.terminate();
    this._worker = null;
    this._loaded = null;
    this._complete({ error: new AsrError("closed", "The transcriber is closed.") });
  }
}
