/**
 * Voice activity detection for the call, in a worker.
 *
 * The model and its runtime are vendored files at `assets`; if they are missing or fail to load, the worker reports
 * `not_ready` and does nothing else.
 */

import { Resampler } from "../audio/resampler.js";
import { SileroVad, SAMPLE_RATE_HZ } from "./silero.js";
import { SpeechGate } from "./speech-gate.js";
import { RATE_HZ } from "../units.js";

const MAX_QUEUED_FRAMES = 25; // a detection two seconds late is useless

/** The detector at the sample rate of the page. */
class ResamplingVad {
  static async open(assets) {
    return new ResamplingVad(await SileroVad.open(assets));
  }

  constructor(vad) {
    this._vad = vad;
    this._resampler = new Resampler(RATE_HZ, SAMPLE_RATE_HZ);
  }

  /** Add `samples` (24 kHz). → the speech probabilities of the windows they complete. */
  process(samples) {
    return this._vad.process(this._resampler.process(samples));
  }
}

let vad = null;
let gate = new SpeechGate();
let running = false;
let busy = false;
const queue = [];

async function run() {
  if (busy || vad === null) return;
  busy = true;
  while (queue.length > 0) {
    for (const probability of await vad.process(queue.shift())) {
      if (running && gate.push(probability)) postMessage({ kind: "speaking", speaking: gate.speaking });
    }
  }
  busy = false;
}

async function open({ assets, frames }) {
  running = true;
  frames.onmessage = ({ data: { samples } }) => {
    if (!running || vad === null) return;
    queue.push(samples);
    if (queue.length > MAX_QUEUED_FRAMES) queue.shift();
    run();
  };
  if (assets.runtime === null || assets.model === null) {
    postMessage({ kind: "vad", state: "not_ready", why: "missing" });
    return;
  }
  postMessage({ kind: "vad", state: "loading" });
  try {
    vad = await ResamplingVad.open(assets);
    postMessage({ kind: "vad", state: running ? "on" : "off" });
  } catch (error) {
    postMessage({ kind: "vad", state: "not_ready", why: "failed", message: String(error) });
  }
}

function pause() {
  running = false;
  queue.length = 0;
  if (gate.speaking) postMessage({ kind: "speaking", speaking: false });
  gate = new SpeechGate();
}

onmessage = ({ data }) => {
  if (data.kind === "open") open(data);
  else if (data.kind === "pause") pause();
  else {
    running = true;
    if (vad !== null) postMessage({ kind: "vad", state: "on" });
  }
};
