/**
 * Token timestamps from cross-attention: the best monotonic path through tokens × frames.
 *
 * Source: openai/whisper `timing.py` (attention of the alignment heads, normalized over the tokens, median
 * filter of 7 frames, dynamic time warping); a frame is 20 ms.
 */

import { TIMESTAMP_S } from "./logit-rules.js";

const MEDIAN_FRAMES = 7;

/**
 * `attentions[token][head]`: weights over the encoder's frames, of which the first `frames` contain audio.
 * → the start of each token in seconds from the start of the clip; null if the attention is unusable.
 */
export function alignTokens(attentions, frames) {
  if (attentions.length < 2 || frames < 1 || attentions.some((heads) => heads.length === 0)) return null;
  const matrix = attentions.map(() => new Float64Array(frames));
  const heads = attentions[0].length;
  for (let head = 0; head < heads; head += 1) {
    const rows = normalized(
      attentions.map((of) => of[head]),
      frames,
    );
    rows.forEach((row, token) => medianFiltered(row).forEach((value, i) => (matrix[token][i] += value / heads)));
  }
  if (matrix.some((row) => row.some((value) => !Number.isFinite(value)))) return null;
  return warped(matrix).map((frame) => frame * TIMESTAMP_S);
}

/** Normalize each frame to mean 0 and standard deviation 1 over the tokens. */
function normalized(rows, frames) {
  const result = rows.map(() => new Float64Array(frames));
  for (let frame = 0; frame < frames; frame += 1) {
    let mean = 0;
    for (const row of rows) mean += row[frame] / rows.length;
    let variance = 0;
    for (const row of rows) variance += (row[frame] - mean) ** 2 / rows.length;
    const deviation = Math.sqrt(variance);
    if (deviation !== 0) rows.forEach((row, i) => (result[i][frame] = (row[frame] - mean) / deviation));
  }
  return result;
}

function medianFiltered(row) {
  const reach = MEDIAN_FRAMES >> 1;
  if (row.length <= reach) return row;
  const mirrored = (i) => row[i < 0 ? -i : i >= row.length ? 2 * (row.length - 1) - i : i];
  const around = new Float64Array(MEDIAN_FRAMES);
  return row.map((_, i) => {
    for (let k = 0; k < MEDIAN_FRAMES; k += 1) around[k] = mirrored(i + k - reach);
    return around.sort()[reach];
  });
}

/** Dynamic time warping over tokens × frames. → the first frame of each token on the best path. */
function warped(matrix) {
  const [tokens, frames] = [matrix.length, matrix[0].length];
  const [BOTH, TOKEN, FRAME] = [0, 1, 2];
  const cameBy = new Uint8Array(tokens * frames);
  let above = new Float64Array(frames + 1).fill(Infinity);
  above[0] = 0;
  for (let token = 0; token < tokens; token += 1) {
    const costs = new Float64Array(frames + 1).fill(Infinity);
    for (let frame = 0; frame < frames; frame += 1) {
      const ways = [above[frame], above[frame + 1], costs[frame]];
      let way = BOTH;
      if (ways[TOKEN] < ways[way]) way = TOKEN;
      if (ways[FRAME] < ways[way]) way = FRAME;
      costs[frame + 1] = ways[way] - matrix[token][frame];
      cameBy[token * frames + frame] = way;
    }
    above = costs;
  }
  const starts = new Array(tokens).fill(0);
  for (let token = tokens - 1, frame = frames - 1; token >= 0 && frame >= 0;) {
    starts[token] = frame;
    const way = cameBy[token * frames + frame];
    if (way !== FRAME) token -= 1;
    if (way !== TOKEN) frame -= 1;
  }
  return starts;
}
