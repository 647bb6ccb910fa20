/** What is wrong with a call at the moment, if anything. Pure; diagnostics.js says more, check by check. */

import { FRAME_RATE_HZ } from "../units.js";

export const QUIET_DB = -55;
export const INAUDIBLE_DB = -60; // a codec's own noise
export const MIN_FRAME_SHARE = 0.8; // of the frames expected
export const CLIPPED_SAMPLES = 8; // of 1920: one that touches full scale is not distorted
export const LOUD_SHARE = 0.1; // of frames that clip

/**
 * The condition of the call that the user should know about, by the keys of CONDITIONS; null if there is none.
 * `facts`: as for diagnose(), with `liveMs` (since the call is live), `zeroMs` (of pure silence), `wasHeard`,
 * `clippedShare`, `slowMs` (since the model is too slow).
 */
export function conditionOf(facts) {
  const { phase, muted, sourceMuted, hasMicrophone, asking, liveMs, zeroMs, inputDb, wasHeard } = facts;
  if (phase !== "live" || facts.contextState !== "running") return null;
  if (hasMicrophone && !muted && !asking) {
    if (sourceMuted) return "source_muted";
    if (zeroMs >= (wasHeard ? 8000 : 3000)) return "no_signal";
    if (!wasHeard && liveMs >= 12_000 && inputDb !== null && inputDb < QUIET_DB) return "not_heard";
    if (facts.clippedShare > LOUD_SHARE) return "clipping";
  }
  if (facts.slowMs >= 3000) return "server_slow";
  if (liveMs >= 6000 && facts.upHz < MIN_FRAME_SHARE * FRAME_RATE_HZ) return "device_slow";
  if (facts.recentUnderruns >= 4) return "gaps";
  return null;
}
