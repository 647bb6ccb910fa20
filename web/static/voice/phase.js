/** Where a call stands is one word, and only what happens changes it. */

const AFTER = Object.freeze({
  opening: "opening",
  connecting: "connecting",
  queued: "queued",
  ready: "live",
  resumed: "live",
  lost: "lost",
  closing: "closing",
  failed: "idle",
  ended: "idle",
});

/** idle, opening, connecting, queued, live, lost or closing. */
export function nextPhase(phase, event) {
  // A parting is not undone by what was on its way.
  if (phase === "closing" && event.kind !== "ended") return phase;
  return AFTER[event.kind] ?? phase;
}
