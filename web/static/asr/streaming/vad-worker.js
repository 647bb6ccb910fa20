/**
 * Voice activity detection in a worker of its own, so that speech is detected while Whisper is busy.
 *
 * Requests, processed in order: {kind: "open", assets}; {kind: "find_speech", id, samples, vad} for a whole
 * recording; {kind: "start_stream", vad}, {kind: "push", samples}, {kind: "skip", samples} and
 * {kind: "flush", id} for a stream. Stream messages: see stream-segmenter.js; `processed` reports progress.
 */

import { SileroVad } from "../../voice/vad/silero.js";
import { SpeechSegmenter, padRuns } from "./speech-segmenter.js";
import { StreamSegmenter } from "./stream-segmenter.js";

let loading = null;
let detector = null;
let streamId = null;
let stream = null;

async function findSpeech(samples, vad) {
  detector.reset();
  const segmenter = new SpeechSegmenter(vad);
  const runs = [];
  for (const probability of await detector.process(samples)) {
    const run = segmenter.push(probability);
    if (run !== null) runs.push(run);
  }
  const last = segmenter.flush(samples.length);
  if (last !== null) runs.push(last);
  return padRuns(runs, samples.length, vad.speech_pad_ms);
}

function emit(message) {
  const transfer = message.samples === undefined ? [] : [message.samples.buffer];
  postMessage({ ...message, stream: streamId }, transfer);
}

const HANDLERS = {
  open: async ({ assets }) => {
    loading ??= SileroVad.open(assets);
    detector = await loading;
  },
  find_speech: ({ samples, vad }) => findSpeech(samples, vad),
  start_stream: ({ stream: id, vad }) => {
    detector.reset();
    streamId = id;
    stream = new StreamSegmenter(detector, vad, emit);
  },
  push: async ({ samples }) => {
    await stream.push(samples);
    emit({ kind: "processed", count: samples.length });
  },
  skip: ({ samples }) => stream.skip(samples),
  flush: () => stream.flush(),
};

let queue = Promise.resolve();

onmessage = ({ data }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ kind: "done", id: data.id, result: await HANDLERS[data.kind](data) });
    } catch (error) {
      postMessage({ kind: "failed", id: data.id, message: `${error.message ?? error}` });
    }
  });
};
