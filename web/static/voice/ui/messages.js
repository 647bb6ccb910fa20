/**
 * The page's messages: what went wrong, and what to do about it.
 *
 * Keyed by the `why` of this page's events or by an error code of docs/reference/protocol.md. For an unknown code the
 * server's own message is shown. Neighbour: call-messages.js has those of the call status, which every visit needs.
 */

import { FRAME_MS } from "../units.js";
import { formatDelay } from "./call-messages.js";

function localUrl({ protocol, port, pathname }) {
  return `${protocol}//localhost${port ? `:${port}` : ""}${pathname}`;
}

/** Whether the page comes from this computer, so that no network is in between. */
export function isLoopback({ hostname }) {
  return /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname ?? "");
}

/** The server's advice about its machine, for a reader who may sit at another one. */
export function adviceHere(advice, location) {
  const computer = isLoopback(location) ? "This computer" : "The computer that runs the server";
  return advice.replace("This machine", computer);
}

const CURRENT_BROWSERS = "Use a current version of Chrome, Edge, Firefox or Safari.";

/** Problems with audio: {title, text(location)}; `help` topics are in ui/help-dialog.js. */
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
    text: () =>
      "Allow it for this page in the address bar or in the system's privacy settings, then start again. " +
      "Without a microphone you can still press one of the questions.",
  },
  microphone_revoked: {
    title: "Microphone permission was taken back",
    text: () => "The agent hears silence now. Allow the microphone in the address bar, then stop and start again.",
  },
  microphone_rate: {
    title: "Microphone not supported",
    text: () => "This browser cannot use its sample rate. Select another microphone in Settings.",
  },
  audio_failed: {
    title: "Audio could not be started",
    text: () => "Reload the page and try again. If it keeps happening, restart the browser.",
  },
  question_failed: {
    title: "The recording could not be loaded",
    text: () => "Is the server still running? Reload the page and try again.",
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
    text: () => "Press Resume, or anywhere on the page, to continue.",
  },
  not_loaded: {
    title: "Part of this page could not be loaded",
    text: () => "Is the server still running? Reload the page.",
  },
  output_missing: {
    title: "Speaker disconnected",
    text: () => "Playing through the default device.",
  },
});

/** The command that shows the link again, as the server delivered it with the page. */
export function inviteCommand() {
  return document.querySelector("meta[name=invite]")?.content || "packet-voice invite --lan";
}

/** What to do about a refusal: {title, text(location, retryAfterMs)}; `retryAfterMs` if the server says when to retry. */
export const REFUSALS = Object.freeze({
  unauthorized: {
    title: "Token required",
    text: () => `Open this page with the link you were given; it ends in #token=…. The server shows it in its terminal; on its computer “${inviteCommand()}” shows it again.`,
  },
  token_wrong: {
    title: "The token in the link is not valid",
    text: () => "The server may have been restarted with another one. Use the link it printed last.",
  },
  too_many_attempts: {
    title: "Too many wrong tokens",
    text: (_location, retryAfterMs) =>
      `The server ignores this address for a while. Open the right link ${retryAfterMs ? formatDelay(retryAfterMs) : "later"}.`,
  },
  origin_refused: {
    title: "The server refuses this address",
    text: ({ origin }) =>
      `It accepts conversations only from its own address, and this page was opened as ${origin}. Open the address ` +
      "that the server printed. For a tunnel, a forwarded port or a reverse proxy, set server.public_url to this one.",
  },
  cross_site_refused: {
    title: "The server refuses this page",
    text: () =>
      "The browser says that the request came from another site or another port. Open the page at the address that " +
      "the server printed, in a tab of its own.",
  },
  client_address_unreadable: {
    title: "The reverse proxy is not set up",
    text: () =>
      "It names its clients so that the server cannot read their addresses. Have it send them in X-Forwarded-For; the " +
      "server's log says what it got.",
  },
  too_many_requests: {
    title: "Too many requests from this address",
    text: () => "The server answers others first. Close other pages and programs that use it; this page tries again.",
  },
  refused_elsewhere: {
    title: "The request was refused on its way to the server",
    text: () => "Something in between refused it, such as a proxy that asks for a login. Reload the page.",
  },
  host_refused: {
    title: "The server does not accept this host name",
    text: ({ hostname }) => `Add “${hostname}” to server.allowed_hosts, or open the address that the server printed.`,
  },
  no_websocket: {
    title: "The WebSocket connection fails",
    text: () =>
      "Pages load, but live audio does not get through. Something in between, such as a proxy or a browser extension, " +
      "may block WebSockets.",
  },
  bad_gateway: {
    title: "The server behind the proxy does not answer",
    text: () => "Is it still running? The page keeps trying.",
  },
  full: {
    title: "All sessions are in use and the queue is full",
    text: () => "The page tries again by itself. You can leave it open.",
  },
  draining: {
    title: "The server is shutting down",
    text: () => "It accepts no new conversations. The page tries again by itself.",
  },
});

/** Conditions during a call that have a remedy: {tone, title, text(facts, location), help}. */
export const CONDITIONS = Object.freeze({
  no_signal: {
    tone: "bad",
    title: "No signal from the microphone",
    text: () => "It delivers pure silence. Check its mute switch, or select another one in Settings.",
    help: "microphone",
  },
  source_muted: {
    tone: "bad",
    title: "The system has muted the microphone",
    text: () => "Turn it on in the system's settings, or with the key or switch that turned it off.",
    help: "microphone",
  },
  not_heard: {
    tone: "warn",
    title: "You have not been heard yet",
    text: ({ inputDb }) =>
      `The microphone is very quiet (peak ${Math.round(inputDb)} dB). Speak up, move closer, raise the input level ` +
      "in the system's settings, or select another microphone.",
    help: "microphone",
  },
  clipping: {
    tone: "warn",
    title: "The microphone is too loud",
    text: ({ autoGainControl }) =>
      autoGainControl
        ? "Its sound is distorted. Turn off automatic gain control in Settings, or move away a little."
        : "Its sound is distorted. Lower the input level in the system's settings, or move away a little.",
    help: "microphone",
  },
  server_slow: {
    tone: "warn",
    title: "The server cannot keep up",
    text: ({ modelMs }) =>
      `It needs ${Math.round(modelMs)} ms for 80 ms of audio. End other conversations or other work on it, or load a ` +
      "smaller or quantized model.",
    help: "speed",
  },
  device_slow: {
    tone: "warn",
    title: "This device cannot keep up",
    text: ({ upHz }) => `It sends only ${upHz.toFixed(1)} of 12.5 frames per second. Close other tabs and applications.`,
    help: "speed",
  },
  gaps: {
    tone: "warn",
    title: "The agent's voice has gaps",
    text: (_facts, location) =>
      isLoopback(location)
        ? "This computer is late, with the model or with this page. Close other programs and tabs."
        : "The network or the server is late. A cable or a closer access point may help.",
    help: "speed",
  },
});

/** What to do about any refusal; for a `why` without words of its own, what the server says. */
export function refusalMessage({ why, message, retryAfterMs }, location) {
  const known = REFUSALS[why];
  if (known !== undefined) return { title: known.title, text: known.text(location, retryAfterMs) };
  const text = message ? errorMessage({ message, retryAfterMs }) : "The server's log says why.";
  return { title: "The server refused the request", text };
}

/** What the server's `error` says, with when to try again if it knows. */
export function errorMessage({ message, retryAfterMs }) {
  const sentence = `${message.slice(0, 1).toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;
  return retryAfterMs ? `${sentence} Try again ${formatDelay(retryAfterMs)}.` : sentence;
}

/** For the `dropped` message of the server, and frames that this page could not send. */
export function droppedMessage({ what, count }, location) {
  const duration = `${((count * FRAME_MS) / 1000).toFixed(1)} s`;
  if (what === "unsent") {
    const why = isLoopback(location) ? "the server did not take it in time" : "the network is too slow";
    return `${duration} of your audio was not sent because ${why}.`;
  }
  if (what === "audio") return `${duration} of your audio was dropped because the server could not keep up.`;
  return `${duration} of the agent's audio was too late to play.`;
}

const CAPTION_CAUSES = Object.freeze({
  missing: "Whisper is not installed on this server: run “make vendor” there, then restart it.",
  not_loaded: "Part of this page could not be loaded. Is the server still running? Reload the page.",
  offline: "The server does not answer, so the model cannot be downloaded. Is it still running?",
  unreachable:
    "The server cannot download the model: it has no network, or the hub does not answer. A model that is stored in " +
    "this browser needs none.",
  browser: "This browser's own speech recognition does not run here. Choose Whisper in Settings.",
  gone: "The model could not be downloaded: the hub does not have it. Choose another model in Settings.",
  storage: "There is not enough browser storage. Delete a model on the Transcribe page, or choose a smaller one.",
});

/** Why there are no captions, and what to do about it; `message` is the engine's. */
export function captionsProblem({ why, message }, location) {
  const refusal = why in REFUSALS ? refusalMessage({ why }, location).text : undefined;
  return CAPTION_CAUSES[why] ?? refusal ?? `${message} Choose another model in Settings.`;
}

/** The state of captions by Whisper. */
export function captionsMessage({ state, why, model, device, loaded, total, message }, location) {
  switch (state) {
    case "loading":
      return total ? `Downloading the model: ${megabytes(loaded)} of ${megabytes(total)}…` : "Loading the model…";
    case "on":
      return `Whisper ${model} is ready, running on the ${device === "webgpu" ? "GPU" : "CPU"}.`;
    case "finishing":
      return "Writing down your last words…";
    case "behind":
      return "Whisper cannot keep up, so some captions are missing. A smaller model is faster.";
    case "not_ready":
      return captionsProblem({ why, message }, location);
    case "none_stored":
      return "Off: no Whisper model is stored in this browser. Choose Whisper here to download one.";
    default:
      return "Captions appear in the transcript, and go to the server and no further.";
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
