/**
 * The timeline without its drawing: words by time, the visible range, waveform peaks.
 *
 * Times are in seconds.
 */

/** Words in the order of their start times. */
export class WordIndex {
  constructor() {
    this.words = [];
  }

  clear() {
    this.words = [];
  }

  /** Add the words of a segment, in any order. */
  add(words) {
    for (const word of words) this.words.splice(this._countUntil(word.start), 0, word);
  }

  /** Index of the last word that starts at or before `s`; −1 before the first. */
  before(s) {
    return this._countUntil(s) - 1;
  }

  /** Index of the word at `s`; −1 between words. */
  at(s) {
    const index = this.before(s);
    return index >= 0 && s < this.words[index].end ? index : -1;
  }

  /** Index of the word `steps` after the one at `s`, clamped; −1 if there are no words. */
  step(s, steps) {
    if (this.words.length === 0) return -1;
    const here = this.before(s);
    const target = here < 0 ? (steps > 0 ? steps - 1 : 0) : here + steps;
    return Math.min(this.words.length - 1, Math.max(0, target));
  }

  /** The number of words that start at or before `s`, by binary search. */
  _countUntil(s) {
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

/** Start of the visible range of `spanS` seconds, moved so that `atS` is visible. */
export function viewStart({ atS, spanS, durationS, startS }) {
  const last = Math.max(0, durationS - spanS);
  const margin = 0.15 * spanS;
  if (atS < startS + margin) return Math.min(last, Math.max(0, atS - margin));
  if (atS > startS + spanS - margin) return Math.min(last, Math.max(0, atS - margin));
  return Math.min(last, startS);
}

/** Peak magnitudes, 0 to 1, `perSecond` of them; grows with the audio. */
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
