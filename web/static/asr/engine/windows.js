/**
 * Pack speech runs into windows of at most 30 s, the input size of Whisper, and map times back.
 *
 * Runs are concatenated until a window is full; the silence between them is left out.
 */

import { RATE_HZ } from "../streaming/speech-segmenter.js";
import { WINDOW_S } from "../options.js";

const WINDOW_SAMPLES = WINDOW_S * RATE_HZ;

export class SpeechWindow {
  /** `pieces`: {start, end} in samples of the recording. */
  constructor(pieces, samples) {
    this.pieces = pieces;
    this.samples = samples;
  }

  /** The time in the recording at `seconds` of the window; at a joint, `isEnd` selects the piece before it. */
  at(seconds, { isEnd = false } = {}) {
    let left = Math.round(seconds * RATE_HZ);
    const last = this.pieces.length - 1;
    for (const [i, { start, end }] of this.pieces.entries()) {
      const length = end - start;
      if (left < length || (isEnd && left <= length) || i === last) {
        return (start + Math.min(left, length)) / RATE_HZ;
      }
      left -= length;
    }
    return 0;
  }

  /** A word's {start, end} in the recording; one that crosses a joint is where most of it lies. */
  spanOf({ start, end }) {
    const [from, to] = [start, end].map((seconds) => Math.round(seconds * RATE_HZ));
    let offset = 0;
    let longest = null;
    for (const piece of this.pieces) {
      const begin = Math.max(from, offset);
      const length = Math.min(to, offset + piece.end - piece.start) - begin;
      if (length > 0 && length > (longest?.length ?? 0)) {
        longest = { length, start: piece.start + begin - offset };
      }
      offset += piece.end - piece.start;
    }
    if (longest === null) return { start: this.at(start), end: this.at(start) };
    return { start: longest.start / RATE_HZ, end: (longest.start + longest.length) / RATE_HZ };
  }
}

/** The windows of a recording, in order; `runs`: {start, end} in samples. */
export function* windowsOf(recording, runs) {
  let pieces = [];
  let length = 0;
  for (const run of runs.flatMap(halved)) {
    if (length + run.end - run.start > WINDOW_SAMPLES) {
      yield joined(recording, pieces, length);
      [pieces, length] = [[], 0];
    }
    pieces.push(run);
    length += run.end - run.start;
  }
  if (pieces.length > 0) yield joined(recording, pieces, length);
}

function joined(recording, pieces, length) {
  const samples = new Float32Array(length);
  let at = 0;
  for (const { start, end } of pieces) {
    samples.set(recording.subarray(start, end), at);
    at += end - start;
  }
  return new SpeechWindow(pieces, samples);
}

/** Split a run that padding made longer than a window. */
function halved(run) {
  if (run.end - run.start <= WINDOW_SAMPLES) return [run];
  const middle = run.start + Math.floor((run.end - run.start) / 2);
  return [{ start: run.start, end: middle }, ...halved({ start: middle, end: run.end })];
}
