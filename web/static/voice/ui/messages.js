/**
 * Whatever goes wrong is said in a sentence that a person understands, with what to do about it.
 *
 * Keyed by what programs call it: a `why` of this page or an error code of docs/reference/protocol.md. An unknown
 * one falls back to the server's own sentence.
 */

import { FRAME_MS } from "../units.js";

function here({ protocol, port, pathname }) {
  return `${protocol}//localhost${port ? `:${port}` : ""}${pathname}`;
}

/** Why talking is not possible in this browser, or not possible yet. `do`: what helps. */
export const PROBLEMS = Object.freeze({
  insecure_context: {
    title: "The microphone needs a secure page",
    text: (location) =>
      `Browsers give the microphone only to pages served over HTTPS or from this computer itself. ` +
      `On the computer that runs the server open ${here(location)}; from elsewhere, serve it over HTTPS.`,
  },
  no_audio_worklet: {
    title: "This browser cannot play live sound",
    text: () => "It has no AudioWorklet. A current Chrome, Edge, Firefox or Safari has.",
  },
  no_media_devices: {
    title: "This browser offers no microphone",
    text: () => "It does not let pages ask for one. A current Chrome, Edge, Firefox or Safari does.",
  },
  microphone_denied: {
    title: "The microphone is blocked",
    text: () =>
      "Allow it for this page (the icon beside the address, or the system's privacy settings), then start again.",
  },
  microphone_missing: {
    title: "No microphone was found",
    text: () => "Plug one in, or choose another one in the settings, then start again.",
  },
  microphone_busy: {
    title: "The microphone does not answer",
    text: () => "Another program may be holding it. Close that one, then start again.",
  },
  microphone_gone: {
    title: "The microphone was unplugged",
    text: () => "The agent hears silence. Plug it in again or choose another one in the settings.",
  },
  worklet_failed: {
    title: "The sound path broke",
    text: () => "Stop and start again. If it happens again, the browser's console says more.",
  },
  wire_failed: {
    title: "The page could not start its connection",
    text: () => "Reload the page. If it happens again, the browser's console says more.",
  },
  sound_suspended: {
    title: "The browser paused the sound",
    text: () => "Press the button below to go on.",
  },
  output_missing: {
    title: "The chosen loudspeaker is gone",
    text: () => "The default one plays instead.",
  },
});

/** Why there is no conversation; each continues "…" with what the page does about it. */
const ENDINGS = Object.freeze({
  full: "Every place is taken and the queue is full.",
  not_ready: "The server is still loading its models.",
  draining: "The server is shutting down.",
  going_away: "The server shut down.",
  lost: "The connection was lost.",
  unreachable: "The server does not answer.",
  busy: "The server could not keep up with this connection.",
  slow: "The network is too slow for live sound: the server had to let go.",
  silent: "The server heard nothing from this page for too long.",
  internal: "The server failed on this conversation; its log says why.",
  idle: "Nothing was said for so long that the server ended the conversation.",
  unauthorized: "The server wants its token.",
  replaced: "This conversation goes on in another window.",
  out_of_turn: "The server answered in a way this page does not understand. Reload the page.",
  protocol: "The server did not understand this page. Reload the page.",
  ended: "The server ended the conversation.",
});

export function endingSentence(why, message) {
  return ENDINGS[why] ?? (message ? `The server says: ${message}.` : "The connection ended.");
}

/** "in 5 s", rounded up, so that nobody is promised too much. */
export function inSeconds(ms) {
  return `in ${Math.max(1, Math.ceil(ms / 1000))} s`;
}

/** Second, third: as one says a place in a queue. */
export function place(position) {
  if (position === 1) return "You are next.";
  return `You are number ${position} in the queue.`;
}

/** What the server left out, as it tells in `dropped`. */
export function droppedSentence({ what, count }) {
  const missing = `${((count * FRAME_MS) / 1000).toFixed(1)} s`;
  if (what === "audio") return `${missing} of your voice came too late and were left out.`;
  return `${missing} of the agent's voice were left out: they would have come too late.`;
}

/** How Whisper is doing beside the conversation; `why` and `message` are the engine's. */
export function wordsSentence({ state, model, device, loaded, total, message }) {
  switch (state) {
    case "loading":
      return total ? `Fetching the model, ${megabytes(loaded)} of ${megabytes(total)}…` : "Loading…";
    case "on":
      return `Whisper ${model} listens along, on ${device === "webgpu" ? "the graphics card" : "the processor"}.`;
    case "behind":
      return "It cannot keep up and leaves words out: a smaller model is faster.";
    case "not_ready":
      return `Not ready: ${message}`;
    default:
      return "They stand beside the agent's, and go to the server as text.";
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
