/**
 * What was said and heard, as it was heard: user left, agent right, on one clock, in this page's memory only.
 *
 * Each side comes in frames of 80 ms with the time of their first sample; where one has none, it is silent.
 * It holds an hour, then stops by itself. What does not belong here: saving, which only the user does.
 */

import { RATE_HZ } from "../units.js";
import { quantize, wav } from "./wav.js";

const SECOND_SAMPLES = 2 * RATE_HZ; // left and right
const LIMIT_S = 3600;

export class Recorder {
  constructor() {
    this._startMs = null;
    this._seconds = []; // Int16Array of interleaved samples, one for each second
    this._endSamples = 0; // of one channel
    this._lines = [];
  }

  get durationMs() {
    return (1000 * this._endSamples) / RATE_HZ;
  }

  get isFull() {
    return this._seconds.length >= LIMIT_S;
  }

  get isEmpty() {
    return this._endSamples === 0;
  }

  user(samples, firstMs) {
    this._place(samples, firstMs, 0);
  }

  agent(samples, firstMs) {
    this._place(samples, firstMs, 1);
  }

  /** An utterance, closed. */
  write(who, text, atMs) {
    if (this._startMs !== null) this._lines.push({ who, text, atMs: Math.max(0, atMs - this._startMs) });
  }

  wav() {
    const whole = [...this._seconds];
    const last = whole.length - 1;
    if (last >= 0) whole[last] = whole[last].subarray(0, 2 * (this._endSamples - last * RATE_HZ));
    return wav(whole, { rateHz: RATE_HZ, channels: 2 });
  }

  transcript() {
    const line = ({ who, text, atMs }) => `${clock(atMs)}  ${who}: ${text}\n`;
    return new Blob(this._lines.map(line), { type: "text/plain;charset=utf-8" });
  }

  _place(samples, firstMs, channel) {
    this._startMs ??= firstMs;
    const start = Math.round(((firstMs - this._startMs) * RATE_HZ) / 1000);
    const quantized = quantize(samples);
    for (let i = Math.max(0, -start); i < quantized.length; i += 1) {
      const second = Math.floor((start + i) / RATE_HZ);
      if (second >= LIMIT_S) return;
      this._open(second);
      this._seconds[second][2 * (start + i - second * RATE_HZ) + channel] = quantized[i];
    }
    this._endSamples = Math.max(this._endSamples, start + quantized.length);
  }

  _open(second) {
    while (this._seconds.length <= second) this._seconds.push(new Int16Array(SECOND_SAMPLES));
  }
}

/** m:ss */
export function clock(ms) {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
