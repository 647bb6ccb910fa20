/**
 * The ear has a thread of its own too, so that what is said while Whisper thinks is heard all the same.
 *
 * Orders, done one after the other: {kind: "open", assets}, {kind: "cut", id, samples, vad}: the runs of
 * speech in a recording; {kind: "begin", vad}, {kind: "hear", samples}, {kind: "skip", samples} and
 * {kind: "flush", id}: those of a stream. What a stream tells is in `listening.js`; `heard` says how far it is.
 */

import { Detector } from "../../voice/vad/silero.js";
import { SpeechCutter, padded } from "./cutting.js";
import { Listening } from "./listening.js";

let opened = null;
let detector = null;
let stream = null;

async function cut(samples, vad) {
  detector.restart();
  const cutter = new SpeechCutter(vad);
  const runs = [];
  for (const probability of await detector.hear(samples)) {
    const run = cutter.push(probability);
    if (run !== null) runs.push(run);
  }
  const last = cutter.flush(samples.length);
  if (last !== null) runs.push(last);
  return padded(runs, samples.length, vad.speech_pad_ms);
}

function tell(message) {
  const parts = message.samples === undefined ? [] : [message.samples.buffer];
  postMessage({ ...message, stream }, parts);
}

let listening = null;

const ORDERS = {
  open: async ({ assets }) => {
    opened ??= Detector.open(assets);
    detector = await opened;
  },
  cut: ({ samples, vad }) => cut(samples, vad),
  begin: ({ stream: id, vad }) => {
    detector.restart();
    stream = id;
    listening = new Listening(detector, vad, tell);
  },
  hear: async ({ samples }) => {
    await listening.hear(samples);
    tell({ kind: "heard", count: samples.length });
  },
  skip: ({ samples }) => listening.skip(samples),
  flush: () => listening.flush(),
};

let turn = Promise.resolve();

onmessage = ({ data }) => {
  turn = turn.then(async () => {
    try {
      postMessage({ kind: "done", id: data.id, result: await ORDERS[data.kind](data) });
    } catch (error) {
      postMessage({ kind: "failed", id: data.id, message: `${error.message ?? error}` });
    }
  });
};
