/**
 * Where the work stands is one word, and only what happens changes it; what does not fit changes nothing.
 *
 * idle: no model is loaded. loading, ready: one is being loaded, is. decoding, transcribing: a file.
 * opening, listening, finishing: the microphone. Only one of them is the case.
 */

const TURNS = Object.freeze({
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
  return TURNS[phase][kind] ?? phase;
}

/** Whether something is under way that the user may stop. */
export const isBusy = (phase) => phase !== "idle" && phase !== "ready";

export const PHASES = Object.freeze(Object.keys(TURNS));
