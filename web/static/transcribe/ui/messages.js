/**
 * The page's messages: what went wrong, and what to do about it.
 *
 * Keyed by an error code of the engine (asr/errors.js), of the microphone, or of this page.
 */

import { PROBLEMS, REFUSALS } from "../../voice/ui/messages.js";

const SET_TOKEN = "Set HF_TOKEN on the server to a token that has access, then restart the server.";
const CHECK_NETWORK =
  "Is the server online? It downloads from the hub in HF_ENDPOINT, by default huggingface.co; a mirror in your " +
  "network works too. Models stored in this browser need no download.";

const MESSAGES = Object.freeze({
  // Engine and model files
  missing: ["Whisper is not installed on this server", "Run “make vendor” on the server, then restart it."],
  gone: ["Model not found", "The hub has no such file in this revision. Choose another model."],
  gated: ["Access to this model is restricted", SET_TOKEN],
  refused: [
    "This model is not allowed on this server",
    "The server's owner decides which repositories it serves: see the allow list in docs/reference/hub-proxy.md.",
  ],
  unreachable: ["Cannot download the model files", CHECK_NETWORK],
  cut: ["Download interrupted", "Try again; files that were downloaded completely are kept."],
  storage: ["Not enough browser storage", "Delete another model under Storage, or choose a smaller one."],
  load: ["The model does not run on this device", "Choose another model or another device."],
  // Transcription
  options: ["Invalid option", "Change it under Options."],
  stalled: ["The model stopped responding", "It was stopped. Try again; if it happens again, use a smaller model."],
  crashed: ["The model failed", "Try again; the browser console has more details."],
  empty: ["No audio", "The recording contains no samples."],
  busy: ["A transcription is already running", "Wait until it is finished, or cancel it."],
  closed: ["The model was unloaded", "Load it again."],
  // Files
  not_sound: ["Unsupported file", "Browsers usually support WAV, MP3, FLAC, Ogg, MP4 and WebM."],
  unreadable: ["Cannot read the file", "It was moved or changed after you chose it. Choose it again."],
  too_long: ["The recording is too long for this browser", "Split it into parts of about an hour."],
  // Information
  recycled: ["The model was restarted", "The part it was working on is missing or was transcribed again."],
  dropped: ["The model cannot keep up", "Some speech was skipped. A smaller model is faster."],
  not_played: ["This browser cannot play the file", "The transcript and its timestamps are not affected."],
  not_kept: ["One hour of audio is kept", "Transcription continues, but later audio cannot be played back."],
});

const { token_wrong, too_many_attempts, unauthorized } = REFUSALS;
const SHARED_REFUSALS = Object.freeze({ token_wrong, too_many_attempts, unauthorized });

/** {title, text} for `why`; `message` is the specific message of the engine or the server. */
export function messageFor(why, message, location) {
  const shared = PROBLEMS[why] ?? SHARED_REFUSALS[why];
  if (shared !== undefined) {
    const { title, text } = shared;
    return { title, text: text(location) };
  }
  const [title, advice] = MESSAGES[why] ?? ["Something went wrong", "Reload the page."];
  return { title, text: message ? `${withPeriod(message)} ${advice}` : advice };
}

const TOPICS = Object.freeze({
  model: ["missing", "gone", "gated", "refused", "unreachable", "cut", "storage", "load", "closed"],
  speed: ["stalled", "crashed", "recycled", "dropped"],
  files: ["empty", "not_sound", "unreadable", "too_long", "not_played", "not_kept"],
  server: Object.keys(SHARED_REFUSALS),
  microphone: Object.keys(PROBLEMS),
});

/** The section of the help that says more about `why`. */
export function helpTopic(why) {
  return Object.keys(TOPICS).find((topic) => TOPICS[topic].includes(why)) ?? "start";
}

const withPeriod = (message) => (/[.!?]$/.test(message) ? message : `${message}.`);
