/**
 * Where a clip sounds, by its level alone: a word does not begin before its sound or end after it.
 *
 * Attention counts the silence around a word as part of it, and a model may write words where nothing sounds. A frame
 * sounds if its level is well above the quietest of the clip; a clip without such a difference says nothing.
 * Source of the idea: stable-ts, `suppress_silence`.
 */

import { TIMESTAMP_S } from "./logit-rules.js";

const RATE_HZ = 16_000;
const FRAME_SAMPLES = RATE_HZ * TIMESTAMP_S;
const SILENCE_DB = -100; // of a frame of zeros
const LOUDEST_FRAMES = 10; // 0.2 s: a click is shorter
const RANGE_DB = 60; // what is quieter by more than this is silence, however quiet the rest is
const MIN_CONTRAST_DB = 10; // between the loudest and the quietest frames
const ABOVE_QUIETEST = 0.25; // of that contrast
const MIN_PAUSE_FRAMES = 10; // a shorter silence is part of a word
const MARGIN_S = 0.2; // a model's timestamps are not exact

export class SoundLevels {
  /** `samples`: the clip, at 16 kHz. */
  constructor(samples) {
    const levels = levelsOf(samples);
    const ordered = levels.slice().sort();
    const top = ordered[Math.max(0, ordered.length - LOUDEST_FRAMES)] ?? SILENCE_DB;
    const bottom = Math.max(ordered[Math.floor(ordered.length / 10)] ?? SILENCE_DB, top - RANGE_DB);
    /** Whether sound and silence can be told apart; speech with pauses has this, steady noise has not. */
    this.hasContrast = top - bottom >= MIN_CONTRAST_DB;
    const threshold = bottom + ABOVE_QUIETEST * (top - bottom);
    this._sounds = Array.from(levels, (level) => level > threshold);
  }

  /** Whether anything may sound from `start` to `end`, in seconds, or just before or after. */
  mayContainSound(start, end) {
    return !this.hasContrast || this._runsIn(start - MARGIN_S, end + MARGIN_S).length > 0;
  }

  /** The longest sound from `start` to `end`, in seconds; all of it if nothing is known. */
  soundIn(start, end) {
    const runs = this.hasContrast ? this._runsIn(start, end) : [];
    if (runs.length === 0) return { start, end };
    const [from, to] = runs.reduce((longest, run) => (run[1] - run[0] > longest[1] - longest[0] ? run : longest));
    return { start: Math.max(start, from * TIMESTAMP_S), end: Math.min(end, to * TIMESTAMP_S) };
  }

  /** The runs [from, to] of sounding frames, between pauses. */
  _runsIn(start, end) {
    const runs = [];
    const last = Math.min(this._sounds.length, Math.round(end / TIMESTAMP_S));
    for (let frame = Math.max(0, Math.round(start / TIMESTAMP_S)); frame < last; frame += 1) {
      if (!this._sounds[frame]) continue;
      if (runs.length > 0 && frame - runs.at(-1)[1] < MIN_PAUSE_FRAMES) runs.at(-1)[1] = frame + 1;
      else runs.push([frame, frame + 1]);
    }
    return runs;
  }
}

/** The level of each frame of 20 ms, in dB relative to full scale. */
function levelsOf(samples) {
  const levels = new Float32Array(Math.ceil(samples.length / FRAME_SAMPLES));
  for (let frame = 0; frame < levels.length; frame += 1) {
    const from = frame * FRAME_SAMPLES;
    const to = Math.min(from + FRAME_SAMPLES, samples.length);
    let energy = 0;
    for (let i = from; i < to; i += 1) energy += samples[i] * samples[i];
    levels[frame] = energy === 0 ? SILENCE_DB : Math.max(SILENCE_DB, 10 * Math.log10(energy / (to - from)));
  }
  return levels;
}
