/**
 * Adaptive jitter buffer: the smallest playout delay that the arrival times allow, at most 240 ms.
 *
 * Just before a frame arrives, the samples still buffered are the slack. The minimum slack over a window of frames
 * is delay that was never needed; what exceeds the target delay is trimmed. Each underrun raises the target delay,
 * each window without one lowers it a little. Including the frame being played, 1 to 3 frames are buffered.
 *
 * Without clicks: an underrun is concealed by the last 5 ms played backwards and faded out; playback resumes with a
 * 5 ms fade-in; a trim is a 5 ms crossfade. Underruns and trimmed samples are counted.
 *
 * Lengths are samples at 24 kHz. There is no clock here: time is the number of samples pulled.
 */

import { FRAME_SAMPLES, samplesIn } from "../units.js";

export const MAX_BUFFERED_SAMPLES = 3 * FRAME_SAMPLES;
export const FADE_SAMPLES = samplesIn(5);
const INITIAL_TARGET_SAMPLES = samplesIn(20);
const MIN_TARGET_SAMPLES = samplesIn(10);
const MAX_TARGET_SAMPLES = MAX_BUFFERED_SAMPLES - FRAME_SAMPLES;
const WINDOW_FRAMES = 50;
const GROWTH = 1.5;
const DECAY = 0.9;
const MIN_TRIM_SAMPLES = samplesIn(5);
const RING_SAMPLES = MAX_BUFFERED_SAMPLES + FRAME_SAMPLES;

export class JitterBuffer {
  constructor() {
    this._ring = new Float32Array(RING_SAMPLES);
    this._tail = new Float32Array(FADE_SAMPLES);
    this._targetDelay = INITIAL_TARGET_SAMPLES;
    this.frames = 0;
    this.underruns = 0;
    this.trimmedSamples = 0;
    this._clear();
  }

  get bufferedSamples() {
    return this._written - this._read;
  }

  get targetDelaySamples() {
    return Math.round(this._targetDelay);
  }

  get isPlaying() {
    return this._playing;
  }

  /** Discard the buffer and fade out. This is intended silence, so it does not count as an underrun. */
  flush() {
    const fading = this._playing ? FADE_SAMPLES : this._fadeOutLeft;
    this._clear();
    this._fadeOutLeft = fading;
  }

  /** Add one frame of 1920 samples, and a `label` that is passed back when it is played. */
  push(samples, label) {
    this.frames += 1;
    if (this._playing) this._updateTargetDelay();
    if (!this._playing && this.bufferedSamples === 0) this._startDelay = this.targetDelaySamples;
    const first = this._written;
    for (let i = 0; i < samples.length; i += 1) this._ring[(first + i) % RING_SAMPLES] = samples[i];
    this._written += samples.length;
    this._labels.push({ first, last: this._written, label });
    if (this.bufferedSamples > MAX_BUFFERED_SAMPLES) {
      this._trim(this.bufferedSamples - FRAME_SAMPLES - this.targetDelaySamples);
    }
  }

  /**
   * Fill `out`. Calls `onStart(label, offset)` for each frame whose first sample is in it, and `onEnd(label)` for
   * each frame whose last sample is.
   */
  pull(out, onStart, onEnd) {
    for (let at = 0; at < out.length; at += 1) {
      if (!this._playing) this._waitForStart();
      else if (this.bufferedSamples === 0) this._underrun();
      out[at] = this._playing ? this._readSample(at, onStart, onEnd) : this._concealmentSample();
    }
  }

  _clear() {
    this._written = 0;
    this._read = 0;
    this._labels = [];
    this._playing = false;
    this._startDelay = 0;
    this._fadeInPosition = 0;
    this._fadeOutLeft = 0;
    this._resetWindow();
  }

  _resetWindow() {
    this._arrivals = 0;
    this._worstSlack = Infinity;
  }

  /** Delay the first frame by the target delay, or until a second frame has arrived. */
  _waitForStart() {
    if (this.bufferedSamples === 0) return;
    this._startDelay -= 1;
    if (this._startDelay >= 0 && this.bufferedSamples < FRAME_SAMPLES + this.targetDelaySamples) return;
    this._playing = true;
    this._fadeInPosition = 0;
    this._resetWindow();
  }

  _underrun() {
    this.underruns += 1;
    this._targetDelay = Math.min(MAX_TARGET_SAMPLES, this._targetDelay * GROWTH);
    this._playing = false;
    this._fadeOutLeft = FADE_SAMPLES;
  }

  _readSample(at, onStart, onEnd) {
    const frame = this._labels[0];
    if (this._read === frame.first) onStart(frame.label, at);
    let sample = this._ring[this._read % RING_SAMPLES];
    if (this._fadeInPosition < FADE_SAMPLES) {
      sample *= this._fadeInPosition / FADE_SAMPLES;
      this._fadeInPosition += 1;
    }
    this._tail[this._read % FADE_SAMPLES] = sample;
    this._read += 1;
    if (this._read === frame.last) {
      this._labels.shift();
      onEnd(frame.label);
    }
    return sample;
  }

  /** The last 5 ms backwards, faded out; then silence. */
  _concealmentSample() {
    if (this._fadeOutLeft === 0) return 0;
    const gone = FADE_SAMPLES - this._fadeOutLeft;
    const gain = (this._fadeOutLeft - 1) / FADE_SAMPLES;
    this._fadeOutLeft -= 1;
    return gain * this._tail[(this._read - 1 - gone + RING_SAMPLES * FADE_SAMPLES) % FADE_SAMPLES];
  }

  /** Record the slack at this arrival; at the end of a window, lower the target delay and trim the excess. */
  _updateTargetDelay() {
    this._worstSlack = Math.min(this._worstSlack, this.bufferedSamples);
    this._arrivals += 1;
    if (this._arrivals < WINDOW_FRAMES) return;
    this._targetDelay = Math.max(MIN_TARGET_SAMPLES, this._targetDelay * DECAY);
    const spare = this._worstSlack - this.targetDelaySamples;
    if (spare > MIN_TRIM_SAMPLES) this._trim(spare);
    this._resetWindow();
  }

  /** Skip the next `count` samples with a crossfade. */
  _trim(count) {
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
