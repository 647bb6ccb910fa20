/**
 * A word is not chopped and a click is not a word: speech starts on one sure window and ends after a pause.
 *
 * Hysteresis over the detector's probabilities, one for each 32 ms. Source of the thresholds: the Silero
 * project's own iterator (start at 0.5, end 0.15 lower); the pause spans the gaps between words.
 */

const START = 0.5;
const END = 0.35;
const WINDOW_MS = 32;
const START_WINDOWS = 2;
const PAUSE_WINDOWS = Math.ceil(400 / WINDOW_MS);

export class SpeechGate {
  constructor() {
    this.speaking = false;
    this._run = 0; // windows in a row that speak for a change
  }

  /** Take one probability; true when `speaking` changed. */
  push(probability) {
    const speaksForChange = this.speaking ? probability < END : probability >= START;
    this._run = speaksForChange ? this._run + 1 : 0;
    if (this._run < (this.speaking ? PAUSE_WINDOWS : START_WINDOWS)) return false;
    this.speaking = !this.speaking;
    this._run = 0;
    return true;
  }
}
