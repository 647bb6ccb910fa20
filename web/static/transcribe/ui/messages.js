/**
 * Whatever stands in the way is said in a sentence that a person understands, with what to do about it.
 *
 * Keyed by what programs call it: a code of the engine (asr/errors.js), of the microphone, or of this
 * page. `{ title, text }`; what the engine says of the case itself comes first.
 */

import { PROBLEMS } from "../../voice/ui/messages.js";

const TOKEN = "Set HF_TOKEN on the server to a token that may read it, then restart the server.";
const MIRROR =
  "Is the server connected? It fetches from the hub that HF_ENDPOINT names, huggingface.co unless set; " +
  "a mirror inside your network does as well. A model that is kept in this browser needs none of it.";

const KNOWN = Object.freeze({
  // The engine's files and the model's
  missing: ["Whisper's program is not installed here", "On the server run “make vendor”, then restart it."],
  gone: ["This model is not there", "The hub has no such file in this revision. Choose another model."],
  gated: ["The hub does not give this model to everybody", TOKEN],
  refused: [
    "This server does not pass this model on",
    "Its owner decides which repositories it serves: see the allow-list in docs/reference/hub-proxy.md.",
  ],
  unreachable: ["The model's files cannot be had now", MIRROR],
  cut: ["The download broke off", "Press the button again: what has arrived whole is kept."],
  storage: ["The browser has no room to keep this model", "Delete another one under Storage, or choose a smaller one."],
  load: ["The model does not run here", "Choose another model, or the other way of running it."],
  // Work
  options: ["An option makes no sense", "Change it under “How it listens”."],
  stalled: ["The model stopped answering", "Its worker was ended. Try again, with a smaller model if it happens again."],
  crashed: ["The model failed", "Try again; the browser's console says more."],
  empty: ["There was nothing to hear", "The sound has no samples."],
  busy: ["The model is still at work", "Wait until it is done, or cancel it."],
  closed: ["The model was unloaded", "Load it again."],
  // Sound files
  not_sound: ["This file is no sound that the browser knows", "WAV, MP3, FLAC, Ogg, MP4 and WebM usually are."],
  unreadable: ["The file could not be read", "It was moved or changed since it was chosen. Choose it again."],
  too_long: ["The sound is too long for this browser", "Cut it into parts, an hour or so each."],
  // Good to know
  recycled: ["The model had to be started afresh", "The part it was at is missing or was done again."],
  dropped: ["The model cannot keep up", "Some of what was said was left out. A smaller model is faster."],
  not_played: ["This browser cannot play this file", "Its words and their times hold nevertheless."],
  not_kept: ["An hour of sound is kept", "What follows is still written down, but cannot be heard again."],
});

/** What to say of `why`; `message` is what the engine or the server says of the case itself. */
export function sentence(why, message, location) {
  if (why in PROBLEMS) {
    const { title, text } = PROBLEMS[why];
    return { title, text: text(location) };
  }
  const [title, advice] = KNOWN[why] ?? ["Something went wrong", "Reload the page."];
  return { title, text: message ? `${ended(message)} ${advice}` : advice };
}

const ended = (message) => (/[.!?]$/.test(message) ? message : `${message}.`);
