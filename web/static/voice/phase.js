/** The phase of a call, and how events change it. */

const PHASE_AFTER = Object.freeze({
  opening: "opening",
  connecting: "connecting",
  queued: "queued",
  ready: "live",
  paused: "paused",
  continued: "live",
  resumed: "live",
  lost: "lost",
  closing: "closing",
  failed: "idle",
  ended: "idle",
});

/** idle, opening, connecting, queued, live, paused (put back into the queue), lost or closing. */
export function nextPhase(phase, event) {
  // Once the user has ended the call, late events do not reopen it.
  if (phase === "closing" && event.kind !== "ended") return phase;
  return PHASE_AFTER[event.kind] ?? phase;
}
