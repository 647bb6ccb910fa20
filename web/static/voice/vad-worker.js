/**
 * Silero v5 hears every sample once: 512 at 16 kHz with the 64 before them, its state handed on.
 *
 * The detector and its runtime are vendored files at `assets`; where they are missing or do not load,
 * the worker says `not_ready` and stays silent. Nothing is fetched from anywhere else.
 * Source of shapes: the model file (input [1, 576], state [2, 1, 128], sr; output [1, 1], stateN).
 */

import { Resampler } from "./resampler.js";
import { SpeechGate } from "./speech.js";
import { RATE_HZ } from "./units.js";

const VAD_HZ = 16_000;
const WINDOW_SAMPLES = 512;
const CONTEXT_SAMPLES = 64;
const STATE_SHAPE = [2, 1, 128];
const WAITING_LIMIT_FRAMES = 25; // two seconds behind is no detection any more

class Detector {
  static async open({ runtime: runtimeUrl, model: modelUrl }) {
    const runtime = await import(new URL("ort.wasm.min.mjs", runtimeUrl));
    runtime.env.wasm.wasmPaths = runtimeUrl; // unset, it would ask a public server
    runtime.env.wasm.numThreads = 1;
    const session = await runtime.InferenceSession.create(new URL("silero_vad_v5.onnx", modelUrl).href, {
      executionProviders: ["wasm"],
    });
    return new Detector(runtime, session);
  }

  constructor(runtime, session) {
    this._runtime = runtime;
    this._session = session;
    this._rate = new runtime.Tensor("int64", BigInt64Array.of(BigInt(VAD_HZ)), []);
    this._resampler = new Resampler(RATE_HZ, VAD_HZ);
    this._input = new Float32Array(CONTEXT_SAMPLES + WINDOW_SAMPLES);
    this._filled = CONTEXT_SAMPLES;
    this._state = new runtime.Tensor("float32", new Float32Array(2 * 128), STATE_SHAPE);
  }

  /** The probabilities of speech in the windows that `samples` (24 kHz) complete. */
  async hear(samples) {
    const resampled = this._resampler.process(samples);
    const probabilities = [];
    for (let taken = 0; taken < resampled.length; ) {
      const part = resampled.subarray(taken, taken + this._input.length - this._filled);
      this._input.set(part, this._filled);
      this._filled += part.length;
      taken += part.length;
      if (this._filled === this._input.length) probabilities.push(await this._judge());
    }
    return probabilities;
  }

  async _judge() {
    const input = new this._runtime.Tensor("float32", this._input.slice(), [1, this._input.length]);
    const { output, stateN } = await this._session.run({ input, state: this._state, sr: this._rate });
    this._state = stateN;
    this._input.copyWithin(0, WINDOW_SAMPLES);
    this._filled = CONTEXT_SAMPLES;
    return output.data[0];
  }
}

let detector = null;
let gate = new SpeechGate();
let running = false;
let busy = false;
const waiting = [];

async function work() {
  if (busy || detector === null) return;
  busy = true;
  while (waiting.length > 0) {
    for (const probability of await detector.hear(waiting.shift())) {
      if (running && gate.push(probability)) postMessage({ kind: "speaking", speaking: gate.speaking });
    }
  }
  busy = false;
}

async function open({ assets, frames }) {
  running = true;
  frames.onmessage = ({ data: { samples } }) => {
    if (!running || detector === null) return;
    waiting.push(samples);
    if (waiting.length > WAITING_LIMIT_FRAMES) waiting.shift();
    work();
  };
  if (assets.runtime === null || assets.model === null) {
    postMessage({ kind: "vad", state: "not_ready", why: "missing" });
    return;
  }
  postMessage({ kind: "vad", state: "loading" });
  try {
    detector = await Detector.open(assets);
    postMessage({ kind: "vad", state: running ? "on" : "off" });
  } catch (error) {
    postMessage({ kind: "vad", state: "not_ready", why: "failed", message: String(error) });
  }
}

function rest() {
  running = false;
  waiting.length = 0;
  if (gate.speaking) postMessage({ kind: "speaking", speaking: false });
  gate = new SpeechGate();
}

onmessage = ({ data }) => {
  if (data.kind === "open") open(data);
  else if (data.kind === "rest") rest();
  else {
    running = true;
    if (detector !== null) postMessage({ kind: "vad", state: "on" });
  }
};
