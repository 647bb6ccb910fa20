import { decibels, envelope } from "voice/audio/envelope.js";
import { Framer } from "voice/audio/framer.js";
import { CEILING_SAMPLES, FADE_SAMPLES, JitterBuffer } from "voice/audio/jitter.js";
import { Resampler } from "voice/audio/resampler.js";
import { equal, holds, law, near, seeded } from "./laws.js";

const FRAME = 1920;
const QUANTUM = 128;

law("the framer loses nothing and doubles nothing, however the samples come", () => {
  const random = seeded(1);
  for (let run = 0; run < 50; run += 1) {
    const framer = new Framer();
    const said = [];
    let next = 0;
    while (next < 10_000) {
      const piece = Float32Array.from({ length: Math.floor(random() * 4000) }, () => next++);
      framer.push(piece, (frame) => said.push(frame));
    }
    holds(said.every((frame) => frame.length === FRAME), "a frame has 1920 samples");
    said.forEach((frame, k) => holds(frame.every((value, i) => value === k * FRAME + i), `frame ${k}`));
    equal(said.length, Math.floor(next / FRAME));
  }
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
  law(`${inHz} → ${outHz} Hz: in pieces as in one, and a tone keeps pitch, level and time`, () => {
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
    const ramp = Math.ceil(outHz / 500); // what the silence before the start reaches into
    for (let n = ramp; n < whole.length; n += 1) near(whole[n], tone(outHz, n), 2e-3, `sample ${n}`);
  });
}

law("what lies above the new Nyquist is gone, not folded", () => {
  const samples = Float32Array.from({ length: 48_000 }, (_, n) => Math.sin((2 * Math.PI * 15_000 * n) / 48_000));
  const out = new Resampler(48_000, 24_000).process(samples).subarray(500);
  holds(Math.max(...out.map(Math.abs)) < 1e-3, "a tone of 15 kHz is heard at 24 kHz");
});

/** Pull `count` quanta; what was heard, and which frames began and ended. */
function pull(buffer, count) {
  const heard = [];
  const began = [];
  const ended = [];
  for (let i = 0; i < count; i += 1) {
    const out = new Float32Array(QUANTUM);
    buffer.pull(out, (label, at) => began.push([label, heard.length + at]), (label) => ended.push(label));
    heard.push(...out);
  }
  return { heard, began, ended };
}

const frame = (value) => new Float32Array(FRAME).fill(value);

law("frames that come in time are played whole, in order, sample for sample", () => {
  const buffer = new JitterBuffer();
  const said = [];
  const heard = [];
  const ended = [];
  for (let k = 0; k < 40; k += 1) {
    const samples = Float32Array.from({ length: FRAME }, (_, i) => Math.sin((k * FRAME + i) / 50));
    said.push(...samples);
    buffer.push(samples, k);
    const played = pull(buffer, FRAME / QUANTUM);
    heard.push(...played.heard);
    ended.push(...played.ended);
  }
  const start = buffer.cushionSamples;
  equal(buffer.underruns, 0);
  equal(ended, Array.from({ length: 39 }, (_, k) => k));
  for (let i = FADE_SAMPLES; i < 39 * FRAME; i += 1) equal(heard[start + i], Math.fround(said[i]), `sample ${i}`);
});

law("an underrun is counted, ends in a fade without a click, and sound comes back through one", () => {
  const buffer = new JitterBuffer();
  const wave = (k) => Float32Array.from({ length: FRAME }, (_, i) => Math.sin((k * FRAME + i) / 40));
  buffer.push(wave(0), 0);
  const { heard } = pull(buffer, 40);
  equal(buffer.underruns, 1);
  buffer.push(wave(1), 1);
  heard.push(...pull(buffer, 30).heard);
  const steps = heard.slice(1).map((sample, i) => Math.abs(sample - heard[i]));
  holds(Math.max(...steps) < 0.08, `a click of ${Math.max(...steps)}`);
  equal(heard.slice(600 + FRAME + FADE_SAMPLES, 40 * QUANTUM).every((sample) => sample === 0), true, "silence");
});

law("waiting for a first frame, or for one after a flush, is no underrun", () => {
  const buffer = new JitterBuffer();
  pull(buffer, 50);
  buffer.push(frame(0.5), 0);
  pull(buffer, 8);
  buffer.flush();
  const { heard } = pull(buffer, 20);
  equal([buffer.underruns, buffer.bufferedSamples], [0, 0]);
  holds(heard.at(-1) === 0, "silence after a flush");
});

law("never more than 240 ms wait, whatever arrives, and what is trimmed is counted", () => {
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
          holds(buffer.bufferedSamples <= CEILING_SAMPLES, `${buffer.bufferedSamples} samples wait`);
        }
      }
      const before = buffer.bufferedSamples;
      pull(buffer, 1);
      played += before - buffer.bufferedSamples;
    }
    equal(pushed * FRAME, played + buffer.trimmedSamples + buffer.bufferedSamples, "samples");
  }
});

law("after a stall the delay comes back to what it was", () => {
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
  holds(delays.at(-1) <= before + buffer.cushionSamples, `${delays.at(-1)} samples wait, before it were ${before}`);
});

law("jitter that repeats is learnt: underruns stop, and the reserve goes back when it is over", () => {
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
  const learning = buffer.underruns;
  run(500, 7);
  holds(buffer.underruns - learning <= 3, `${buffer.underruns - learning} underruns after learning`);
  run(600, 1);
  holds(buffer.bufferedSamples <= 2 * buffer.cushionSamples, `${buffer.bufferedSamples} samples wait for nothing`);
});

law("each underrun raises the reserve, and quiet gives it back", () => {
  const buffer = new JitterBuffer();
  const first = buffer.cushionSamples;
  for (let times = 0; times < 10; times += 1) {
    buffer.push(frame(0.1), 0);
    pull(buffer, 60);
  }
  equal(buffer.underruns, 10);
  const raised = buffer.cushionSamples;
  holds(raised > 2 * first && raised <= CEILING_SAMPLES - FRAME, `a reserve of ${raised} samples`);
  for (let k = 0; k < 2000; k += 1) {
    buffer.push(frame(0.1), k);
    pull(buffer, FRAME / QUANTUM);
  }
  holds(buffer.cushionSamples <= first, `a reserve of ${buffer.cushionSamples} samples is kept for nothing`);
});

law("the envelope finds the peaks where they are, and silence is −120 dB", () => {
  const samples = new Float32Array(FRAME);
  samples[FRAME - 1] = -0.5;
  const { peaks, rms } = envelope(samples);
  equal(Array.from(peaks), [...Array(15).fill(0), 0.5]);
  near(rms, 0.5 / Math.sqrt(FRAME), 1e-7);
  equal([decibels(0), Math.round(decibels(0.5))], [-120, -6]);
});
