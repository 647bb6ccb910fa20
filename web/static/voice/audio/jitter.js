/**
 * Play as soon as is safe: the reserve is as small as arrivals allow, and never above 240 ms.
 *
 * Just before a frame arrives, what is still buffered is the slack. The worst slack of a window is what
 * the delay could do without; all of it but a cushion is trimmed. Each underrun raises the cushion, each
 * window without one gives a little of it back. With the frame that plays, that is 1 to 3 frames.
 *
 * Nothing clicks: an underrun ends in 5 ms of what was last heard, played backwards and fading; sound
 * comes back through a fade of 5 ms; a trim is a crossfade of 5 ms. Everything is counted.
 *
 * Lengths are samples at 24 kHz. What does not belong here: clocks. Time is what has been pulled.
 */

import { FRAME_SAMPLES, samplesIn } from "../units.js";

export const CEILING_SAMPLES = 3 * FRAME_SAMPLES;
export const FADE_SAMPLES = samplesIn(5);
const FIRST_CUSHION_SAMPLES = samplesIn(20);
const LEAST_CUSHION_SAMPLES = samplesIn(10);
const MOST_CUSHION_SAMPLES = CEILING_SAMPLES - FRAME_SAMPLES;
const WINDOW_FRAMES = 50;
const GROWTH = 1.5;
const DECAY = 0.9;
const WORTH_TRIMMING_SAMPLES = samplesIn(5);
const RING_SAMPLES = CEILING_SAMPLES + FRAME_SAMPLES;

export class JitterBuffer {
  constructor() {
    this._ring = new Float32Array(RING_SAMPLES);
    this._tail = new Float32Array(FADE_SAMPLES);
    this._cushion = FIRST_CUSHION_SAMPLES;
    this.frames = 0;
    this.underruns = 0;
    this.trimmedSamples = 0;
    this._clear();
  }

  get bufferedSamples() {
    return this._written - this._read;
  }

  get cushionSamples() {
    return Math.round(this._cushion);
  }

  get isPlaying() {
    return this._playing;
  }

  /** Forget what is buffered; what played fades out. Not an underrun: somebody wanted silence. */
  flush() {
    const fading = this._playing ? FADE_SAMPLES : this._fading;
    this._clear();
    this._fading = fading;
  }

  /** One frame arrives: 1920 samples and a `label` that is handed back when it plays. */
  push(samples, label) {
    this.frames += 1;
    if (this._playing) this._learn();
    if (!this._playing && this.bufferedSamples === 0) this._waiting = this.cushionSamples;
    const first = this._written;
    for (let i = 0; i < samples.length; i += 1) this._ring[(first + i) % RING_SAMPLES] = samples[i];
    this._written += samples.length;
    this._labels.push({ first, last: this._written, label });
    if (this.bufferedSamples > CEILING_SAMPLES) {
      this._skip(this.bufferedSamples - FRAME_SAMPLES - this.cushionSamples);
    }
  }

  /**
   * Fill `out`. `began(label, offset)` is called where a frame's first sample lies in it, `ended(label)`
   * for each frame whose last sample does.
   */
  pull(out, began, ended) {
    for (let at = 0; at < out.length; at += 1) {
      if (!this._playing) this._await();
      else if (this.bufferedSamples === 0) this._runDry();
      out[at] = this._playing ? this._next(at, began, ended) : this._fade();
    }
  }

  _clear() {
    this._written = 0;
    this._read = 0;
    this._labels = [];
    this._playing = false;
    this._waiting = 0;
    this._rising = 0;
    this._fading = 0;
    this._restart();
  }

  _restart() {
    this._arrivals = 0;
    this._worstSlack = Infinity;
  }

  /** Before the first frame plays, the cushion passes; a second frame that is already here ends the wait. */
  _await() {
    if (this.bufferedSamples === 0) return;
    this._waiting -= 1;
    if (this._waiting >= 0 && this.bufferedSamples < FRAME_SAMPLES + this.cushionSamples) return;
    this._playing = true;
    this._rising = 0;
    this._restart();
  }

  _runDry() {
    this.underruns += 1;
    this._cushion = Math.min(MOST_CUSHION_SAMPLES, this._cushion * GROWTH);
    this._playing = false;
    this._fading = FADE_SAMPLES;
  }

  _next(at, began, ended) {
    const frame = this._labels[0];
    if (this._read === frame.first) began(frame.label, at);
    let sample = this._ring[this._read % RING_SAMPLES];
    if (this._rising < FADE_SAMPLES) {
      sample *= this._rising / FADE_SAMPLES;
      this._rising += 1;
    }
    this._tail[this._read % FADE_SAMPLES] = sample;
    this._read += 1;
    if (this._read === frame.last) {
      this._labels.shift();
      ended(frame.label);
    }
    return sample;
  }

  /** The last 5 ms backwards, fading; then silence. */
  _fade() {
    if (this._fading === 0) return 0;
    const gone = FADE_SAMPLES - this._fading;
    const gain = (this._fading - 1) / FADE_SAMPLES;
    this._fading -= 1;
    return gain * this._tail[(this._read - 1 - gone + RING_SAMPLES * FADE_SAMPLES) % FADE_SAMPLES];
  }

  /** Judge the slack of this arrival; at the end of a window, trim what was never needed. */
  _learn() {
    this._worstSlack = Math.min(this._worstSlack, this.bufferedSamples);
    this._arrivals += 1;
    if (this._arrivals < WINDOW_FRAMES) return;
    this._cushion = Math.max(LEAST_CUSHION_SAMPLES, this._cushion * DECAY);
    const spare = this._worstSlack - this.cushionSamples;
    if (spare > WORTH_TRIMMING_SAMPLES) this._skip(spare);
    this._restart();
  }

  /** Leave out the next `count` samples, crossfading from what would have come into what comes. */
  _skip(count) {
    const blend = Math.min(FADE_SAMPLES, this.bufferedSamples - count);
    for (let i = 0; i < blend; i += 1) {
      const weight = (i + 1) / (blend + 1);
      const to = (this._read + count + i) % RING_SAMPLES;
      this._ring[to] = weight * this._ring[to] + (1 - weight) * this._ring[(this._read + i) % RING_SAMPLES];
    }
    this._read += count;
    this.trimmedSamples += count;
    while (this._labels.length > 0 && this._labels[0].last <= this._read) this._labels.shift();
  }
}
