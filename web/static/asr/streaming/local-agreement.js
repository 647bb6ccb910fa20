/**
 * Local agreement: a word is confirmed once two consecutive hypotheses agree on it, and then never changes.
 *
 * Source: Macháček et al., "Turning Whisper into Real-Time Transcription System" (local agreement, n = 2).
 */

export class LocalAgreement {
  constructor() {
    this._confirmed = [];
    this._last = [];
  }

  /** Add the words of a new hypothesis for the whole utterance. → {stable, text}; `text` starts with `stable`. */
  push(words) {
    const confirmedCount = commonPrefixLength(this._last, words);
    for (let i = this._confirmed.length; i < confirmedCount; i += 1) this._confirmed.push(words[i]);
    this._last = words;
    const stable = this._confirmed.join("");
    return { stable, text: stable + words.slice(this._confirmed.length).join("") };
  }
}

function commonPrefixLength(left, right) {
  let count = 0;
  const max = Math.min(left.length, right.length);
  while (count < max && normalized(left[count]) === normalized(right[count])) count += 1;
  return count;
}

/** A word without case and punctuation, which change as a sentence grows. */
function normalized(word) {
  return word.toLowerCase().replace(/[\p{P}\p{S}\s]/gu, "") || word.trim();
}
