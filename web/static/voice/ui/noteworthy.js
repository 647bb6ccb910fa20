/** Which events the notices have something to say about: most visits have none, and load neither notices.js nor its words. */

const ALWAYS = new Set([
  "token_refused", "not_loaded", "failed", "audio_failed", "microphone_changed", "output_missing", "error", "draining", "lost",
]);
const FEW_FRAMES = 3; // fewer than are worth a notice, so that it is loaded in time

/** `condition`: of the call, see conditionOf(); `droppedFrames`: in the call so far. */
export function isNoteworthy(event, { condition = null, droppedFrames = 0 } = {}) {
  switch (event.kind) {
    case "health":
      return event.health?.status !== "ready" || event.health.model?.trained === false || Boolean(event.health.capacity?.advice);
    case "connection_stats":
      return condition !== null || event.droppedFrames >= FEW_FRAMES;
    case "dropped":
      return droppedFrames >= FEW_FRAMES;
    case "audio_state":
      return event.state === "suspended" || event.state === "interrupted";
    case "recording":
      return event.on;
    case "vad":
      return event.state === "not_ready";
    case "captions":
      return event.state === "not_ready" || event.state === "behind";
    case "ended":
      return event.why !== "stopped";
    default:
      return ALWAYS.has(event.kind);
  }
}
