/**
 * Every word has one place in time, and a time has at most one word: the timeline without a screen.
 *
 * Words are kept in the order of their starts; times are in seconds. `at` looks up by halving.
 */

export class Positions {
  constructor() {
    this.words = [];
  }

  clear() {
    this.words = [];
  }

  /** The words of one more segment; most come behind those that are there. */
  add(words) {
    for (const word of words) this.words.splice(this._after(word.start), 0, word);
  }

  /** Index of the last word that begins at or before `s`; −1 before the first. */
  before(s) {
    return this._after(s) - 1;
  }

  /** Index of the word that is being said at `s`; −1 between words. */
  at(s) {
    const index = this.before(s);
    return index >= 0 && s < this.words[index].end ? index : -1;
  }

  /** Index of the word `steps` further than what is said at `s`, within what there is; −1 where there is none. */
  step(s, steps) {
    if (this.words.length === 0) return -1;
    const here = this.before(s);
    const target = here < 0 ? (steps > 0 ? steps - 1 : 0) : here + steps;
    return Math.min(this.words.length - 1, Math.max(0, target));
  }

  /** How many words begin at or before `s`. */
  _after(s) {
    let low = 0;
    let high = this.words.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].start <= s) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** What of `durationS` is seen when `spanS` fit and `atS` is to be in sight: where the view begins. */
export function viewStart({ atS, spanS, durationS, startS }) {
  const last = Math.max(0, durationS - spanS);
  const margin = 0.15 * spanS;
  if (atS < startS + margin) return Math.min(last, Math.max(0, atS - margin));
  if (atS > startS + spanS - margin) return Math.min(last, Math.max(0, atS - margin));
  return Math.min(last, startS);
}

/** The largest magnitude of each piece of `secondsPerPeak`, 0 to 1; grows as sound comes. */
export class Peaks {
  constructor({ rateHz, perSecond }) {
    this._samples = Math.round(rateHz / perSecond);
    this.perSecond = perSecond;
    this.values = [];
    this._filled = 0;
    this._peak = 0;
  }

  push(samples) {
    for (const sample of samples) {
      this._peak = Math.max(this._peak, Math.abs(sample));
      this._filled += 1;
      if (this._filled < this._samples) continue;
      this.values.push(Math.min(1, this._peak));
      this._filled = 0;
      this._peak = 0;
    }
  }
}
