/** The numbers everything else is derived from; the same as the server's. */

export const RATE_HZ = 24000;
export const FRAME_RATE_HZ = 12.5;
export const FRAME_SAMPLES = RATE_HZ / FRAME_RATE_HZ;
export const FRAME_MS = 1000 / FRAME_RATE_HZ;

/** A frame's timestamp is that of its last sample, this much after its first. */
export const LAST_SAMPLE_MS = ((FRAME_SAMPLES - 1) * 1000) / RATE_HZ;

/** Computing one frame: what it should take, and what it may take before frames pile up. */
export const BUDGET_MS = 30;

/** Samples in so many milliseconds. */
export const samplesIn = (ms) => Math.round((ms * RATE_HZ) / 1000);

/** Milliseconds that so many samples last. */
export const msOf = (samples) => (samples * 1000) / RATE_HZ;
