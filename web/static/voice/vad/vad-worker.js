/**
 * The page learns when the user speaks, and is never in the way of the sound.
 *
 * The detector and its runtime are vendored files at `assets`; where they are missing or do not load,
 * the worker says `not_ready` and stays silent. Nothing is fetched from anywhere else.
 */

import { Resampler } from "../audio/resampler.js";
import { Detector, VAD_HZ } from "./silero.js";
import { SpeechGate } from "./speech-gate.js";
import { RATE_HZ } from "../units.js";

const WAITING_LIMIT_FRAMES = 25; // two seconds behind is no detection any more

/** The detector, fed with the page's rate. */
class Ear {
  static async open(assets) {
    return new Ear(await Detector.open(assets));
  }

  constructor(detector) {
    this._detector = detector;
    this._resampler = new Resampler(RATE_HZ, VAD_HZ);
  }

  /** The probabilities of speech in the windows that `samples` (24 kHz) complete. */
  hear(samples) {
    return this._detector.hear(this._resampler.process(samples));
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
    detector = await Ear.open(assets);
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
