import { decibels, envelope } from "voice/audio/envelope.js";
import { Framer } from "voice/audio/framer.js";
import { MAX_BUFFERED_SAMPLES, FADE_SAMPLES, JitterBuffer } from "voice/audio/jitter-buffer.js";
import { Resampler } from "voice/audio/resampler.js";
import { equal, near, ok, seeded, test } from "./harness.js";

const FRAME = 1920;
const QUANTUM = 128;

test("the framer neither loses nor repeats samples, for any split of the input", () => {
  const random = seeded(1);
  for (let run = 0; run < 50; run += 1) {
    const framer = new Framer();
    const input = [];
    let next = 0;
    while (next < 10_000) {
      const piece = Float32Array.from({ length: Math.floor(random() * 4000) }, () => next++);
      framer.push(piece, (frame) => input.push(frame.slice()));
    }
    ok(input.every((frame) => frame.length === FRAME), "a frame has 1920 samples");
    input.forEach((frame, k) => ok(frame.every((value, i) => value === k * FRAME + i), `frame ${k}`));
    equal(input.length, Math.floor(next / FRAME));
  }
});

test("the framer fills one buffer again and again", () => {
  const framer = new Framer();
  const frames = new Set();
  for (let i = 0; i < 10; i += 1) framer.push(new Float32Array(FRAME), (frame) => frames.add(frame.buffer));
  equal(frames.size, 1);
});

test("a frame comes back from playback, to be filled again", async () => {
  const context = new OfflineAudioContext(1, FRAME, 24_000);
  await context.audioWorklet.addModule(import.meta.resolve("voice/audio/playback-worklet.js"));
  const node = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, processorOptions: { epochMs: 0 } });
  const { port1, port2 } = new MessageChannel();
  node.port.postMessage({ connection: port1 }, [port1]);
  const samples = Float32Array.from({ length: FRAME }, (_, i) => i / FRAME);
  const { promise: used, resolve } = Promise.withResolvers();
  port2.onmessage = ({ data }) => data.used === undefined || resolve(data.used);
  port2.postMessage({ kind: "frame", samples, echoMs: 0, index: 0 }, [samples.buffer]);
  equal(samples.length, 0, "it was not copied");
  equal(await used, Float32Array.from({ length: FRAME }, (_, i) => i / FRAME));
});

const RATES = [
  [48_000, 24_000],
  [44_100, 24_000],
  [24_000, 48_000],
  [24_000, 44_100],
  [24_000, 16_000],
  [16_000, 24_000],
];

for (const [inHz, outHz] of RATES) {
  test(`${inHz} → ${outHz} Hz: independent of the split; a tone keeps its pitch, level and timing`, () => {
    const tone = (hz, n) => Math.sin((2 * Math.PI * 1000 * n) / hz);
    const samples = Float32Array.from({ length: inHz / 5 }, (_, n) => tone(inHz, n));
    const whole = new Resampler(inHz, outHz).process(samples);
    const pieces = new Resampler(inHz, outHz);
    const random = seeded(inHz + outHz);
    const joined = [];
    for (let at = 0; at < samples.length; ) {
      const size = Math.floor(random() * 700);
      joined.push(...pieces.process(samples.subarray(at, at + size)));
      at += size;
    }
    equal(Float32Array.from(joined), whole);
    near(whole.length, outHz / 5, 70, "length");
    const ramp = Math.ceil(outHz / 500); // influenced by the silence before the start
    for (let n = ramp; n < whole.length; n += 1) near(whole[n], tone(outHz, n), 2e-3, `sample ${n}`);
  });
}

test("a resampler fills the same buffers again, whatever the rates", () => {
  for (const [inHz, outHz] of RATES) {
    const resampler = new Resampler(inHz, outHz);
    const quantum = new Float32Array(QUANTUM);
    const { buffer } = resampler.process(quantum);
    for (let i = 0; i < 1000; i += 1) equal(resampler.process(quantum).buffer, buffer, `${inHz} → ${outHz} Hz`);
  }
});

test("frequencies above the new Nyquist frequency are removed, not aliased", () => {
  const samples = Float32Array.from({ length: 48_000 }, (_, n) => Math.sin((2 * Math.PI * 15_000 * n) / 48_000));
  const out = new Resampler(48_000, 24_000).process(samples).subarray(500);
  ok(Math.max(...out.map(Math.abs)) < 1e-3, "a tone of 15 kHz is aliased at 24 kHz");
});

/** Pull `count` quanta. → the output, and which frames started and ended. */
function pull(buffer, count) {
  const output = [];
  const started = [];
  const ended = [];
  for (let i = 0; i < count; i += 1) {
    const out = new Float32Array(QUANTUM);
    buffer.pull(out, (label, at) => started.push([label, output.length + at]), (label) => ended.push(label));
    output.push(...out);
  }
  return { output, started, ended };
}

const frame = (value) => new Float32Array(FRAME).fill(value);

test("frames that arrive in time are played completely, in order, sample for sample", () => {
  const buffer = new JitterBuffer();
  const input = [];
  const output = [];
  const ended = [];
  for (let k = 0; k < 40; k += 1) {
    const samples = Float32Array.from({ length: FRAME }, (_, i) => Math.sin((k * FRAME + i) / 50));
    input.push(...samples);
    buffer.push(samples, k);
    const played = pull(buffer, FRAME / QUANTUM);
    output.push(...played.output);
    ended.push(...played.ended);
  }
  const start = buffer.targetDelaySamples;
  equal(buffer.underruns, 0);
  equal(ended, Array.from({ length: 39 }, (_, k) => k));
  for (let i = FADE_SAMPLES; i < 39 * FRAME; i += 1) equal(output[start + i], Math.fround(input[i]), `sample ${i}`);
});

test("an underrun is counted, fades out without a click, and playback fades in again", () => {
  const buffer = new JitterBuffer();
  const wave = (k) => Float32Array.from({ length: FRAME }, (_, i) => Math.sin((k * FRAME + i) / 40));
  buffer.push(wave(0), 0);
  const { output } = pull(buffer, 40);
  equal(buffer.underruns, 1);
  buffer.push(wave(1), 1);
  output.push(...pull(buffer, 30).output);
  const steps = output.slice(1).map((sample, i) => Math.abs(sample - output[i]));
  ok(Math.max(...steps) < 0.08, `a click of ${Math.max(...steps)}`);
  equal(output.slice(600 + FRAME + FADE_SAMPLES, 40 * QUANTUM).every((sample) => sample === 0), true, "silence");
});

test("waiting for the first frame, or for one after a flush, is not an underrun", () => {
  const buffer = new JitterBuffer();
  pull(buffer, 50);
  buffer.push(frame(0.5), 0);
  pull(buffer, 8);
  buffer.flush();
  const { output } = pull(buffer, 20);
  equal([buffer.underruns, buffer.bufferedSamples], [0, 0]);
  ok(output.at(-1) === 0, "silence after a flush");
});

test("at most 240 ms are buffered for any arrivals, and trimmed samples are counted", () => {
  const random = seeded(3);
  for (let run = 0; run < 30; run += 1) {
    const buffer = new JitterBuffer();
    let pushed = 0;
    let played = 0;
    for (let step = 0; step < 400; step += 1) {
      if (random() < 0.15) {
        for (let burst = Math.floor(random() * 6); burst > 0; burst -= 1) {
          buffer.push(frame(0.1), pushed);
          pushed += 1;
          ok(buffer.bufferedSamples <= MAX_BUFFERED_SAMPLES, `${buffer.bufferedSamples} samples buffered`);
        }
      }
      const before = buffer.bufferedSamples;
      pull(buffer, 1);
      played += before - buffer.bufferedSamples;
    }
    equal(pushed * FRAME, played + buffer.trimmedSamples + buffer.bufferedSamples, "samples");
  }
});

test("after a stall the delay returns to its previous value", () => {
  const buffer = new JitterBuffer();
  const delays = [];
  const run = (frames, arrivesAt) => {
    for (let k = 0; k < frames; k += 1) {
      for (let n = arrivesAt(k); n > 0; n -= 1) buffer.push(frame(0.1), k);
      pull(buffer, FRAME / QUANTUM);
      delays.push(buffer.bufferedSamples);
    }
  };
  run(20, () => 1);
  const before = delays.at(-1);
  run(5, (k) => (k < 4 ? 0 : 5));
  run(200, () => 1);
  ok(delays.at(-1) <= before + buffer.targetDelaySamples, `${delays.at(-1)} samples buffered, ${before} before the stall`);
});

test("the target delay adapts to jitter: underruns stop, and the delay shrinks when the jitter is over", () => {
  const buffer = new JitterBuffer();
  const random = seeded(5);
  let due = 0; // in quanta; frame k arrives at 15 k + up to 6 quanta (32 ms)
  let arrivals = [];
  const run = (frames, jitter) => {
    for (let k = 0; k < frames; k += 1) {
      arrivals.push(due + Math.floor(random() * jitter));
      for (let q = 0; q < 15; q += 1) {
        while (arrivals.length > 0 && arrivals[0] <= due + q) {
          arrivals.shift();
          buffer.push(frame(0.1), k);
        }
        pull(buffer, 1);
      }
      due += 15;
    }
  };
  run(100, 7);
  const whileAdapting = buffer.underruns;
  run(500, 7);
  ok(buffer.underruns - whileAdapting <= 3, `${buffer.underruns - whileAdapting} underruns after adapting`);
  run(600, 1);
  ok(buffer.bufferedSamples <= 2 * buffer.targetDelaySamples, `${buffer.bufferedSamples} samples buffered without need`);
});

test("each underrun raises the target delay, and time without underruns lowers it", () => {
  const buffer = new JitterBuffer();
  const first = buffer.targetDelaySamples;
  for (let times = 0; times < 10; times += 1) {
    buffer.push(frame(0.1), 0);
    pull(buffer, 60);
  }
  equal(buffer.underruns, 10);
  const raised = buffer.targetDelaySamples;
  ok(raised > 2 * first && raised <= MAX_BUFFERED_SAMPLES - FRAME, `a target delay of ${raised} samples`);
  for (let k = 0; k < 2000; k += 1) {
    buffer.push(frame(0.1), k);
    pull(buffer, FRAME / QUANTUM);
  }
  ok(buffer.targetDelaySamples <= first, `a target delay of ${buffer.targetDelaySamples} samples`);
});

test("the envelope has the peaks at their positions, and silence is −120 dB", () => {
  const samples = new Float32Array(FRAME);
  samples[FRAME - 1] = -0.5;
  const { peaks, rms } = envelope(samples);
  equal(Array.from(peaks), [...Array(15).fill(0), 0.5]);
  near(rms, 0.5 / Math.sqrt(FRAME), 1e-7);
  equal([decibels(0), Math.round(decibels(0.5))], [-120, -6]);
});
