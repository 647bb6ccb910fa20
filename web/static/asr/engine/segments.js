/**
 * Split a clip's tokens into segments at the timestamps; text after the last pair is decoded again.
 *
 * Source: faster-whisper's `_split_segments_by_timestamps`.
 */

import { TIMESTAMP_S } from "./logit-rules.js";

/**
 * `tokens` of a clip of `duration` seconds → {segments: [{start, end, from, to}], consumed}: times in seconds,
 * `from` and `to` as token indices, and the seconds consumed (always more than 0).
 */
export function splitSegments(tokens, timestampBegin, duration) {
  const isTime = tokens.map((token) => token >= timestampBegin);
  const timeOf = (index) => (tokens[index] - timestampBegin) * TIMESTAMP_S;
  const endsAlone = tokens.length >= 2 && isTime.at(-1) && !isTime.at(-2);
  const cuts = tokens.flatMap((_, i) => (i > 0 && isTime[i] && isTime[i - 1] ? [i] : []));
  if (cuts.length === 0) {
    const first = isTime[0] ? timeOf(0) : 0;
    const last = isTime.lastIndexOf(true);
    const end = last > 0 && timeOf(last) > first ? timeOf(last) : duration;
    return {
      segments: [{ start: first, end: Math.min(end, duration), from: 0, to: tokens.length }],
      consumed: duration,
    };
  }
  if (endsAlone) cuts.push(tokens.length);
  const segments = cuts.map((to, i) => {
    const from = i === 0 ? 0 : cuts[i - 1];
    return { start: Math.min(timeOf(from), duration), end: Math.min(timeOf(to - 1), duration), from, to };
  });
  const lastTime = timeOf(cuts.at(-1) - 1);
  const consumed = endsAlone || lastTime < MIN_CONSUMED_S ? duration : Math.min(lastTime, duration);
  return { segments, consumed };
}

/** With less progress than this the clip would be decoded again and again. */
const MIN_CONSUMED_S = 0.1;
