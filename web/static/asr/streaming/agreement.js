/**
 * A word stands once two hypotheses in a row agree on it, and what stands is never taken back.
 *
 * Source: Macháček et al., "Turning Whisper into Real-Time Transcription System" (local agreement, n = 2).
 */

export class Agreement {
  constructor() {
    this._standing = [];
    this._last = [];
  }

  /** Take the words of a new hypothesis of the whole utterance; {stable, text}, and text begins with stable. */
  push(words) {
    const agreed = agreeing(this._last, words);
    for (let i = this._standing.length; i < agreed; i += 1) this._standing.push(words[i]);
    this._last = words;
    const stable = this._standing.join("");
    return { stable, text: stable + words.slice(this._standing.length).join("") };
  }
}

function agreeing(left, right) {
  let count = 0;
  while (count < Math.min(left.length, right.length) && bare(left[count]) === bare(right[count])) count += 1;
  return count;
}

/** A word without what changes as a sentence grows: capitals and punctuation. */
function bare(word) {
  return word.toLowerCase().replace(/[\p{P}\p{S}\s]/gu, "") || word.trim();
}
