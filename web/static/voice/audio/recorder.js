/**
 * Records a conversation in the page's memory: user left, agent right, on one clock.
 *
 * Each side is added in frames of 80 ms with the time of their first sample; gaps are silent. At most an hour is
 * kept. Saving is up to the user, see ui/recording.js.
 */

import { RATE_HZ } from "../units.js";
import { quantize, wav } from "./wav.js";

const SECOND_SAMPLES = 2 * RATE_HZ; // stereo
const MAX_DURATION_S = 3600;

export class Recorder {
  constructor() {
    this._startMs = null;
    this._seconds = []; // Int16Array of interleaved samples, one for each second
    this._endSamples = 0; // of one channel
  }

  get durationMs() {
    return (1000 * this._endSamples) / RATE_HZ;
  }

  get isFull() {
    return this._seconds.length >= MAX_DURATION_S;
  }

  get isEmpty() {
    return this._endSamples === 0;
  }

  user(samples, firstMs) {
    this._mix(samples, firstMs, 0);
  }

  agent(samples, firstMs) {
    this._mix(samples, firstMs, 1);
  }

  wav() {
    const whole = [...this._seconds];
    const last = whole.length - 1;
    if (last >= 0) whole[last] = whole[last].subarray(0, 2 * (this._endSamples - last * RATE_HZ));
    return wav(whole, { rateHz: RATE_HZ, channels: 2 });
  }

  _mix(samples, firstMs, channel) {
    this._startMs ??= firstMs;
    const start = Math.round(((firstMs - this._startMs) * RATE_HZ) / 1000);
    const quantized = quantize(samples);
    for (let i = Math.max(0, -start); i < quantized.length; i += 1) {
      const second = Math.floor((start + i) / RATE_HZ);
      if (second >= MAX_DURATION_S) return;
      this._growTo(second);
      this._seconds[second][2 * (start + i - second * RATE_HZ) + channel] = quantized[i];
    }
    this._endSamples = Math.max(this._endSamples, start + quantized.length);
  }

  _growTo(second) {
    while (this._seconds.length <= second) this._seconds.push(new Int16Array(SECOND_SAMPLES));
  }
}
