/**
 * What Whisper may say next: timestamps come in pairs, never go back, and go before text that is less sure.
 *
 * Logits are changed in place; what may not be said gets −∞.
 * Source: openai/whisper `decoding.py`, ApplyTimestampRules, SuppressTokens and SuppressBlank.
 */

export const TIMESTAMP_S = 0.02;

export class Rules {
  /** `tokens`: ids {end, noTimestamps, timestampBegin, suppress, suppressFirst}. */
  constructor(tokens, { maxInitialTimestamp }) {
    this._tokens = tokens;
    this._latestFirst = tokens.timestampBegin + Math.round(maxInitialTimestamp / TIMESTAMP_S);
  }

  /** Change `logits` for the token that follows `said`. */
  apply(logits, said) {
    const { end, noTimestamps, timestampBegin, suppress, suppressFirst } = this._tokens;
    for (const token of suppress) logits[token] = -Infinity;
    logits[noTimestamps] = -Infinity;
    const isTime = (token) => token !== undefined && token >= timestampBegin;
    if (said.length === 0) {
      for (const token of suppressFirst) logits[token] = -Infinity;
      logits.fill(-Infinity, 0, timestampBegin);
      logits.fill(-Infinity, this._latestFirst + 1);
    } else {
      if (isTime(said.at(-1))) {
        if (said.length < 2 || isTime(said.at(-2))) logits.fill(-Infinity, timestampBegin);
        else logits.fill(-Infinity, 0, end);
      }
      const last = said.findLast(isTime);
      if (last !== undefined) {
        // The second of a pair may repeat the first; a segment has a length.
        const isOpen = isTime(said.at(-1)) && !isTime(said.at(-2));
        logits.fill(-Infinity, timestampBegin, isOpen ? last : last + 1);
      }
    }
    if (likelihood(logits, timestampBegin, logits.length) > highest(logits, 0, timestampBegin)) {
      logits.fill(-Infinity, 0, timestampBegin);
    }
  }
}

/** log Σ exp of a range. */
function likelihood(logits, from, to) {
  const top = highest(logits, from, to);
  if (top === -Infinity) return -Infinity;
  let sum = 0;
  for (let i = from; i < to; i += 1) sum += Math.exp(logits[i] - top);
  return top + Math.log(sum);
}

function highest(logits, from, to) {
  let top = -Infinity;
  for (let i = from; i < to; i += 1) if (logits[i] > top) top = logits[i];
  return top;
}
