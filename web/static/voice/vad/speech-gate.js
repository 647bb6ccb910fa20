/**
 * Turns speech probabilities, one per 32 ms, into "speaking" or "not speaking", with hysteresis.
 *
 * Speech starts after two windows above the threshold, so that a click is not speech, and ends after a pause that is
 * longer than the gaps between words. Source of the thresholds: the Silero project's own iterator (start at 0.5, end
 * 0.15 lower).
 */

const START = 0.5;
const END = 0.35;
const WINDOW_MS = 32;
const START_WINDOWS = 2;
const PAUSE_WINDOWS = Math.ceil(400 / WINDOW_MS);

export class SpeechGate {
  constructor() {
    this.speaking = false;
    this._run = 0; // consecutive windows in favour of a change
  }

  /** Add one probability. → whether `speaking` changed. */
  push(probability) {
    const isForChange = this.speaking ? probability < END : probability >= START;
    this._run = isForChange ? this._run + 1 : 0;
    if (this._run < (this.speaking ? PAUSE_WINDOWS : START_WINDOWS)) return false;
    this.speaking = !this.speaking;
    this._run = 0;
    return true;
  }
}
