/**
 * Whisper's constraints on the next token: timestamps come in pairs, never decrease, and win over less likely text.
 *
 * Logits are changed in place; tokens that are not allowed become −∞.
 * Source: openai/whisper `decoding.py`, ApplyTimestampRules, SuppressTokens and SuppressBlank.
 */

export const TIMESTAMP_S = 0.02;

export class LogitRules {
  /** `ids`: {end, noTimestamps, timestampBegin, suppress, suppressFirst}. */
  constructor(ids, { maxInitialTimestamp }) {
    this._ids = ids;
    this._maxFirstTimestamp = ids.timestampBegin + Math.round(maxInitialTimestamp / TIMESTAMP_S);
  }

  /** Change `logits` for the token that follows `tokens`. */
  apply(logits, tokens) {
    const { end, noTimestamps, timestampBegin, suppress, suppressFirst } = this._ids;
    for (const token of suppress) logits[token] = -Infinity;
    logits[noTimestamps] = -Infinity;
    const isTime = (token) => token !== undefined && token >= timestampBegin;
    if (tokens.length === 0) {
      for (const token of suppressFirst) logits[token] = -Infinity;
      logits.fill(-Infinity, 0, timestampBegin);
      logits.fill(-Infinity, this._maxFirstTimestamp + 1);
    } else {
      if (isTime(tokens.at(-1))) {
        if (tokens.length < 2 || isTime(tokens.at(-2))) logits.fill(-Infinity, timestampBegin);
        else logits.fill(-Infinity, 0, end);
      }
      const last = tokens.findLast(isTime);
      if (last !== undefined) {
        // The second timestamp of a pair may equal the first; a segment must not be empty.
        const isOpen = isTime(tokens.at(-1)) && !isTime(tokens.at(-2));
        logits.fill(-Infinity, timestampBegin, isOpen ? last : last + 1);
      }
    }
    if (logSumExp(logits, timestampBegin, logits.length) > max(logits, 0, timestampBegin)) {
      logits.fill(-Infinity, 0, timestampBegin);
    }
  }
}

/** log Σ exp over a range. */
function logSumExp(logits, from, to) {
  const top = max(logits, from, to);
  if (top === -Infinity) return -Infinity;
  let sum = 0;
  for (let i = from; i < to; i += 1) sum += Math.exp(logits[i] - top);
  return top + Math.log(sum);
}

function max(logits, from, to) {
  let top = -Infinity;
  for (let i = from; i < to; i += 1) if (logits[i] > top) top = logits[i];
  return top;
}
