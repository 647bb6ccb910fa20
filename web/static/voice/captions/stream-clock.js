/**
 * When each part of an audio stream was captured: recognition counts samples, the transcript has times of the page.
 *
 * The stream may pause, as while the audio context is suspended, so one start time for all of it does not do. Audio
 * that arrives in a burst, after the page was busy, is not a pause: it was captured before it arrived.
 */

const PAUSE_MS = 500; // beyond what a busy page delays
const MAX_STRETCHES = 100;

export class StreamClock {
  constructor(rateHz) {
    this._rateHz = rateHz;
    this._samples = 0; // so far
    this._stretches = []; // {position, zeroMs}: from this sample on, and when sample 0 would have been captured
  }

  /** `count` samples arrived; the last one was captured just now, or earlier. */
  push(count, nowMs) {
    const position = this._samples;
    this._samples += count;
    const zeroMs = nowMs - (1000 * this._samples) / this._rateHz;
    const last = this._stretches.at(-1);
    if (last === undefined || zeroMs - last.zeroMs > PAUSE_MS) {
      this._stretches.push({ position, zeroMs });
      if (this._stretches.length > MAX_STRETCHES) this._stretches.shift();
    } else if (zeroMs < last.zeroMs) {
      last.zeroMs = zeroMs; // what arrived later than it was captured, was captured as early as this
    }
  }

  /** When the sample at `second` of the stream was captured; null before anything arrived. */
  timeOf(second) {
    const position = second * this._rateHz;
    const stretch = this._stretches.findLast((one) => one.position <= position) ?? this._stretches[0];
    return stretch === undefined ? null : stretch.zeroMs + 1000 * second;
  }
}
