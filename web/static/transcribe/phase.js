/**
 * The phase of the page, and how events change it; events that do not fit the phase change nothing.
 *
 * idle: no model loaded; loading, ready: a model. decoding, transcribing: a file. opening, listening, finishing: the
 * microphone.
 */

const TRANSITIONS = Object.freeze({
  idle: { loading: "loading" },
  loading: { loaded: "ready", load_failed: "idle", cancelled: "idle" },
  ready: { loading: "loading", decoding: "decoding", opening: "opening", unloaded: "idle" },
  decoding: { transcribing: "transcribing", failed: "ready", cancelled: "ready" },
  transcribing: { done: "ready", failed: "ready", cancelled: "ready" },
  opening: { listening: "listening", failed: "ready", cancelled: "ready" },
  listening: { finishing: "finishing", failed: "ready", cancelled: "ready" },
  finishing: { done: "ready", failed: "ready", cancelled: "ready" },
});

/** The phase after an event of this kind. */
export function nextPhase(phase, kind) {
  return TRANSITIONS[phase][kind] ?? phase;
}

/** Whether a job is running that the user can cancel. */
export const isBusy = (phase) => phase !== "idle" && phase !== "ready";

export const PHASES = Object.freeze(Object.keys(TRANSITIONS));
