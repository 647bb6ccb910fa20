/** The envelope of a frame for display: 16 peaks of 5 ms each for the waveform, one RMS for the meter. */

import { FRAME_SAMPLES } from "../units.js";

export const PEAKS_PER_FRAME = 16;
const FLOOR_DB = -120;
const FULL_SCALE = 0.999;

/** {peaks, rms, clipped} of `samples`, 0 to 1; `clipped`: how many of them are at full scale. */
export function envelope(samples) {
  const peaks = new Float32Array(PEAKS_PER_FRAME);
  const stride = FRAME_SAMPLES / PEAKS_PER_FRAME;
  let energy = 0;
  let clipped = 0;
  for (let i = 0; i < samples.length; i += 1) {
    const size = Math.abs(samples[i]);
    const slot = Math.floor(i / stride);
    if (size > peaks[slot]) peaks[slot] = size;
    if (size >= FULL_SCALE) clipped += 1;
    energy += samples[i] * samples[i];
  }
  return { peaks, rms: Math.sqrt(energy / samples.length), clipped };
}

/** Decibels below full scale; silence is −120. */
export function decibels(level) {
  return level > 0 ? Math.max(FLOOR_DB, 20 * Math.log10(level)) : FLOOR_DB;
}
