/**
 * The page's messages: what went wrong, and what to do about it.
 *
 * Keyed by an error code of the engine (asr/errors.js), of the microphone, or of this page.
 */

import { PROBLEMS, REFUSALS, refusalMessage } from "../../voice/ui/messages.js";

const SET_TOKEN = "Set HF_TOKEN on the server to a token that has access, then restart the server.";
const ALLOW = "Allow it for this page in the address bar or in the system's privacy settings";
const CHECK_NETWORK =
  "The server has no network, or the hub does not answer. Help says how to put a model on the server without one.";

const MESSAGES = Object.freeze({
  // Engine and model files
  missing: ["Whisper is not installed on this server", "Run “make vendor” on the server, then restart it."],
  gone: ["The model could not be downloaded", "The hub does not have it. Choose another model."],
  gated: ["Access to this model is restricted", SET_TOKEN],
  refused: [
    "This model is not allowed on this server",
    "The server's owner decides which repositories it serves: see proxy.allow in its configuration.",
  ],
  offline: ["Cannot reach the server", "Is it still running? A model that is stored in this browser needs no server."],
  unreachable: ["Cannot download the model files", CHECK_NETWORK],
  server_storage: [
    "The server cannot store this model",
    "Choose a smaller one, or make room there: raise proxy.cache_bytes or proxy.file_bytes in its configuration.",
  ],
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
  // The microphone, where it means something else than in a conversation
  microphone_denied: ["Microphone access is blocked", `${ALLOW}, then start again.`],
  microphone_revoked: ["Microphone permission was taken back", `What was said before is transcribed. ${ALLOW}, then start again.`],
  microphone_gone: [
    "Microphone disconnected",
    "What was said before is transcribed. Connect a microphone, then start again.",
  ],
  microphone_missing: ["No microphone found", "Connect one, then start again."],
  microphone_rate: ["Microphone not supported", "This browser cannot use its sample rate. Connect another one."],
  audio_suspended: ["The browser paused audio", "Press anywhere on the page to continue."],
  // Files
  not_sound: ["Unsupported file", "Browsers usually support WAV, MP3, FLAC, Ogg, MP4 and WebM."],
  unreadable: ["Cannot read the file", "It was moved or changed after you chose it. Choose it again."],
  too_long: ["The recording is too long for this browser", "Split it into parts of about an hour."],
  // Sound that would be lost without a word
  only_zeros: ["The recording is silent", "It contains only zeros, so there is nothing to transcribe."],
  cancelled: ["The channels cancel each other out", "One of them is transcribed instead of their average."],
  over_scale: ["The recording was far too loud", "It was scaled down. Its samples may be in another unit than its format says."],
  quiet: ["The recording is very quiet", "If words are missing, make it louder first."],
  no_signal: [
    "No signal from the microphone",
    "It delivers pure silence. Check its mute switch, or choose another one in the browser's settings for this page.",
  ],
  source_muted: [
    "The system has muted the microphone",
    "Turn it on in the system's settings, or with the key or switch that turned it off.",
  ],
  // Information
  recycled: ["The model was restarted", "The part it was working on is missing or was transcribed again."],
  dropped: ["The model cannot keep up", "Some speech was skipped. A smaller model is faster."],
  not_played: ["This browser cannot play the file", "The transcript and its timestamps are not affected."],
  not_kept: ["One hour of audio is kept", "Transcription continues, but later audio cannot be played back."],
});

// What the engine says about these is technical: file names, revisions.
const TECHNICAL = new Set(["gone", "gated", "refused", "server_storage", "load"]);
const SHOWN_ELSEWHERE = new Set(["offline", "unreachable"]); // what the server says is for its owner: see model-card.js

/** Problems that may be over the next time. */
export const PASSING = new Set(["offline", "unreachable", "cut"]);

/** {title, text, details?} for `why`; `message` is the specific message of the engine or the server. */
export function messageFor(why, message, location) {
  if (why in MESSAGES) {
    const [title, advice] = MESSAGES[why];
    if (message && TECHNICAL.has(why)) return { title, text: advice, details: withPeriod(message) };
    return { title, text: message && !SHOWN_ELSEWHERE.has(why) ? `${withPeriod(message)} ${advice}` : advice };
  }
  if (why in REFUSALS) return refusalMessage({ why }, location);
  if (why in PROBLEMS) return { title: PROBLEMS[why].title, text: PROBLEMS[why].text(location) };
  return { title: "Something went wrong", text: `${message ? `${withPeriod(message)} ` : ""}Reload the page.` };
}

const TOPICS = Object.freeze({
  model: ["missing", "gone", "gated", "refused", "unreachable", "server_storage", "cut", "storage", "load", "closed"],
  speed: ["stalled", "crashed", "recycled", "dropped"],
  files: ["empty", "not_sound", "unreadable", "too_long", "only_zeros", "cancelled", "over_scale", "quiet", "not_played", "not_kept"],
  server: ["offline", ...Object.keys(REFUSALS)],
  microphone: [...Object.keys(PROBLEMS), "no_signal", "source_muted", "audio_suspended"],
});

/** The section of the help that says more about `why`. */
export function helpTopic(why) {
  return Object.keys(TOPICS).find((topic) => TOPICS[topic].includes(why)) ?? "start";
}

const withPeriod = (message) => (/[.!?]$/.test(message) ? message : `${message}.`);
