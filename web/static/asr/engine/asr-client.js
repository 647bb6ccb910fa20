/**
 * Whisper is watched: a decode that hangs or crashes ends its worker, and another one takes its place.
 *
 * One clip at a time. The worker remembers nothing, so a new one, loaded from the browser's cache, goes on
 * where the old one was. It is also replaced after so many clips or so much sound, before memory that a
 * runtime does not give back adds up (on WebGPU, hundreds of MB have been reported).
 */

import { Trouble } from "../errors.js";

export const LIMITS = Object.freeze({
  stallMs: 30_000, // between two signs of life: the encoder's pass, or a token
  clipMs: 300_000, // for one clip, whatever it says
  loadMs: 180_000, // between two signs of life of a model that is being loaded
  clips: Object.freeze({ webgpu: 60, wasm: 600 }), // before the worker is replaced
  soundS: Object.freeze({ webgpu: 600, wasm: 6000 }),
});

const RATE_HZ = 16_000;

export class Scribe {
  /** `onEvent` hears of progress and of {type: "recycled", reason}. */
  constructor({ onEvent, limits = {} }) {
    this._onEvent = onEvent;
    this.limits = { ...LIMITS, ...limits };
    this._worker = null;
    this._settings = null;
    this._loaded = null; // a promise of what the worker said when it was ready
    this._waiting = null; // for the one answer that is due
    this._turn = Promise.resolve();
    this._nextId = 0;
  }

  /** What the worker says of what it loaded. */
  load(settings) {
    this._settings = settings;
    this._retire();
    return this._ready();
  }

  get isLoaded() {
    return this._settings !== null;
  }

  /** The result of one clip; the next one waits for it. */
  decode(samples, options) {
    const result = this._turn.then(() => this._decode(samples, options));
    this._turn = result.catch(() => {});
    return result;
  }

  /** The clip that is being decoded is given up. */
  cancel() {
    this._worker?.postMessage({ kind: "cancel" });
  }

  close() {
    this._settings = null;
    this._retire();
  }

  async _decode(samples, options) {
    for (let tries = 2; ; tries -= 1) {
      const { device } = await this._ready();
      try {
        const result = await this._ask({ kind: "decode", samples, options }, this.limits.stallMs);
        this._count(device, samples.length);
        return result;
      } catch (error) {
        if (error.code !== "stalled" && error.code !== "crashed") throw error;
        this._recycle(error.code);
        if (error.code === "stalled" || tries === 1) throw error; // what hung would hang again
      }
    }
  }

  _ready() {
    if (this._settings === null) return Promise.reject(new Trouble("closed", "No model is loaded."));
    if (this._loaded === null) {
      this._clips = 0;
      this._samples = 0;
      this._worker = new Worker(new URL("./asr-worker.js", import.meta.url), { type: "module" });
      this._worker.onmessage = ({ data }) => this._receive(data);
      this._worker.onerror = (event) => this._crash(event.message);
      const loaded = this._ask({ kind: "load", settings: this._settings }, this.limits.loadMs);
      loaded.catch(() => {
        if (this._loaded === loaded) this._retire();
      });
      this._loaded = loaded;
    }
    return this._loaded;
  }

  /** An order's answer, which fails when no sign of life comes for `stallMs`. */
  _ask(order, stallMs) {
    return new Promise((resolve, reject) => {
      this._nextId += 1;
      this._waiting = { id: this._nextId, resolve, reject, stallMs };
      if (order.kind === "decode") this._waiting.clip = this._alarm(this.limits.clipMs);
      this._waiting.stall = this._alarm(stallMs);
      this._worker.postMessage({ ...order, id: this._nextId });
    });
  }

  _alarm(ms) {
    const error = new Trouble("stalled", `Whisper did not answer for ${ms / 1000} s.`);
    return setTimeout(() => this._settle({ error }), ms);
  }

  _receive(message) {
    if (message.kind === "done" || message.kind === "failed") {
      if (message.id !== this._waiting?.id) return;
      if (message.kind === "done") this._settle({ result: message.result });
      else this._settle({ error: Trouble.unpack(message.error) });
      return;
    }
    if (this._waiting !== null) {
      clearTimeout(this._waiting.stall);
      this._waiting.stall = this._alarm(this._waiting.stallMs);
    }
    if (message.kind === "progress") {
      this._onEvent({ type: "progress", file: message.file, loaded: message.loaded, total: message.total });
    }
  }

  _settle({ result, error }) {
    const waiting = this._waiting;
    if (waiting === null) return;
    this._waiting = null;
    clearTimeout(waiting.clip);
    clearTimeout(waiting.stall);
    if (error === undefined) waiting.resolve(result);
    else waiting.reject(error);
  }

  _crash(message) {
    if (this._waiting === null) this._recycle("crashed");
    else this._settle({ error: new Trouble("crashed", `Whisper ended: ${message}`) });
  }

  _count(device, samples) {
    this._clips += 1;
    this._samples += samples;
    if (this._clips >= this.limits.clips[device]) this._recycle("clips");
    else if (this._samples >= this.limits.soundS[device] * RATE_HZ) this._recycle("sound");
  }

  /** Another worker, loaded while nobody waits for it yet. */
  _recycle(reason) {
    this._retire();
    this._onEvent({ type: "recycled", reason });
    this._ready().catch(() => {}); // who asks next is told
  }

  _retire() {
    this._worker?.terminate();
    this._worker = null;
    this._loaded = null;
    this._settle({ error: new Trouble("closed", "The transcriber is closed.") });
  }
}
