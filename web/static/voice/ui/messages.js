/**
 * The page's messages: what went wrong, and what to do about it.
 *
 * Keyed by the `why` of this page's events or by an error code of docs/reference/protocol.md. For an unknown code the
 * server's own message is shown.
 */

import { FRAME_MS } from "../units.js";

function localUrl({ protocol, port, pathname }) {
  return `${protocol}//localhost${port ? `:${port}` : ""}${pathname}`;
}

const CURRENT_BROWSERS = "Use a current version of Chrome, Edge, Firefox or Safari.";

/** Problems with audio: {title, text(location)}. */
export const PROBLEMS = Object.freeze({
  insecure_context: {
    title: "The microphone requires a secure connection",
    text: (location) =>
      `Browsers allow microphone access only over HTTPS or on localhost. ` +
      `On the computer that runs the server, open ${localUrl(location)}; on other devices, use HTTPS.`,
  },
  no_audio_worklet: {
    title: "Browser not supported",
    text: () => `This browser does not support AudioWorklet. ${CURRENT_BROWSERS}`,
  },
  no_media_devices: {
    title: "Browser not supported",
    text: () => `This browser does not give web pages access to a microphone. ${CURRENT_BROWSERS}`,
  },
  microphone_denied: {
    title: "Microphone access is blocked",
    text: () => "Allow it for this page in the address bar or in the system's privacy settings, then start again.",
  },
  microphone_missing: {
    title: "No microphone found",
    text: () => "Connect a microphone or select another one in Settings, then start again.",
  },
  microphone_busy: {
    title: "Microphone not available",
    text: () => "Another application may be using it. Close that application, then start again.",
  },
  microphone_gone: {
    title: "Microphone disconnected",
    text: () => "The agent hears silence now. Reconnect it or select another one in Settings.",
  },
  worklet_failed: {
    title: "Audio processing failed",
    text: () => "Stop and start again. If it keeps happening, check the browser console.",
  },
  audio_suspended: {
    title: "The browser paused audio",
    text: () => "Press Resume to continue.",
  },
  output_missing: {
    title: "Speaker disconnected",
    text: () => "Playing through the default device.",
  },
});

/** Why a connection ended or could not be made. */
const CLOSE_MESSAGES = Object.freeze({
  full: "All sessions are in use and the queue is full.",
  not_ready: "The server is still loading its models.",
  draining: "The server is shutting down.",
  going_away: "The server shut down.",
  lost: "Connection lost.",
  unreachable: "Cannot reach the server.",
  busy: "The server is overloaded.",
  slow: "Disconnected: network too slow for live audio.",
  silent: "Disconnected: the server received nothing from this page for too long.",
  internal: "The session failed on the server; see the server log.",
  idle: "Session ended: no audio for too long.",
  unauthorized: "Token required.",
  replaced: "This conversation continues in another window.",
  out_of_turn: "Unexpected response from the server. Reload the page.",
  protocol: "The server could not process data from this page. Reload the page.",
  worker_failed: "The connection could not be started. Reload the page.",
  ended: "The server ended the conversation.",
});

export function closeMessage(why, message) {
  return CLOSE_MESSAGES[why] ?? (message ? `Disconnected: ${message}.` : "Disconnected.");
}

/** "in 5 s", rounded up. */
export function formatRetryDelay(ms) {
  return `in ${Math.max(1, Math.ceil(ms / 1000))} s`;
}

export function queuePosition(position) {
  return position === 1 ? "You are next in the queue." : `You are number ${position} in the queue.`;
}

export function pausedPosition(position) {
  return `The server is busy. Your conversation is paused; position ${position}. What you say now is not heard.`;
}

/** For the `dropped` message of the server. */
export function droppedMessage({ what, count }) {
  const duration = `${((count * FRAME_MS) / 1000).toFixed(1)} s`;
  if (what === "audio") return `${duration} of your audio was dropped because the server could not keep up.`;
  return `${duration} of the agent's audio was too late to play.`;
}

/** The state of captions by Whisper; `message` is the engine's. */
export function captionsMessage({ state, model, device, loaded, total, message }) {
  switch (state) {
    case "loading":
      return total ? `Downloading the model: ${megabytes(loaded)} of ${megabytes(total)}…` : "Loading the model…";
    case "on":
      return `Whisper ${model} is ready, running on the ${device === "webgpu" ? "GPU" : "CPU"}.`;
    case "behind":
      return "Whisper cannot keep up, so some captions are missing. A smaller model is faster.";
    case "not_ready":
      return `Captions not available: ${message}`;
    default:
      return "Captions appear next to the agent's text and are sent to the server.";
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
