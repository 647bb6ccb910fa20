/** Which events the notices have something to say about: most visits have none, and load neither notices.js nor its words. */

const ALWAYS = new Set([
  "token_refused", "not_loaded", "failed", "audio_failed", "microphone_changed", "output_missing", "error", "draining", "lost",
]);
export const MIN_DROPPED_FRAMES = 6; // half a second; less is not worth a notice
const LOADED_FROM_FRAMES = MIN_DROPPED_FRAMES / 2; // so that it is loaded in time

// By kind; `condition`: of the call, see conditionOf(); `droppedFrames`: in the call so far.
const SOMETIMES = Object.freeze({
  health: ({ health }) => health?.status !== "ready" || health.model?.trained === false || Boolean(health.capacity?.advice),
  connection_stats: (event, { condition }) => condition !== null || event.droppedFrames >= LOADED_FROM_FRAMES,
  dropped: (_event, { droppedFrames }) => droppedFrames >= LOADED_FROM_FRAMES,
  audio_state: ({ state }) => state === "suspended" || state === "interrupted",
  recording: ({ on }) => on,
  vad: ({ state }) => state === "not_ready",
  captions: ({ state }) => state === "not_ready" || state === "behind",
  ended: ({ why }) => why !== "stopped",
});

export function isNoteworthy(event, call) {
  return ALWAYS.has(event.kind) || Boolean(SOMETIMES[event.kind]?.(event, call));
}
