/** Audio constants, the same as the server's, and conversions. */

export const RATE_HZ = 24000;
export const FRAME_RATE_HZ = 12.5;
export const FRAME_SAMPLES = RATE_HZ / FRAME_RATE_HZ;
export const FRAME_MS = 1000 / FRAME_RATE_HZ;

/** A frame's timestamp belongs to its last sample, this much after its first. */
export const LAST_SAMPLE_MS = ((FRAME_SAMPLES - 1) * 1000) / RATE_HZ;

/** The budget for computing one frame; beyond FRAME_MS, frames pile up. */
export const BUDGET_MS = 30;

/** Milliseconds to samples. */
export const samplesIn = (ms) => Math.round((ms * RATE_HZ) / 1000);

/** Samples to milliseconds. */
export const msOf = (samples) => (samples * 1000) / RATE_HZ;

/** The day and the minute, as people write them here. */
export function formatDate(epochMs) {
  return new Date(epochMs).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** m:ss */
export function formatDuration(ms) {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
