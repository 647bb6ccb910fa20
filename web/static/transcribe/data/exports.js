/**
 * What is saved is what was transcribed: every segment in order, its times to the millisecond, its text whole.
 *
 * `result` is `{ segments, info }` as the engine gives them; times are in seconds. A cue ends after it
 * begins, whatever the model said, because players refuse others. Sources: the WebVTT specification (cue
 * text, timestamps); SubRip has none: what its players agree on.
 */

import { cueTime } from "./times.js";

/** By the name a file ends in: what it is, and what it holds. */
export const FORMATS = Object.freeze({
  txt: { type: "text/plain", spell: toText },
  srt: { type: "application/x-subrip", spell: toSubRip },
  vtt: { type: "text/vtt", spell: toWebVtt },
  json: { type: "application/json", spell: toJson },
});

/** One line for each segment. */
export function toText({ segments }) {
  return segments.map(({ text }) => `${oneLine(text)}\n`).join("");
}

export function toSubRip({ segments }) {
  const cue = ({ text, ...times }, i) => `${i + 1}\n${span(times, ",")}\n${plain(text)}\n`;
  return segments.map(cue).join("\n");
}

/** Without a language in the head: WebVTT has no field for it. */
export function toWebVtt({ segments }) {
  const cue = ({ text, ...times }) => `\n${span(times, ".")}\n${escape(text)}\n`;
  return `WEBVTT\n${segments.map(cue).join("")}`;
}

/** Everything that is known, by the names the engine gives it. */
export function toJson({ segments, info }) {
  return `${JSON.stringify({ info, segments }, null, 2)}\n`;
}

function span({ start, end }, point) {
  const fromMs = Math.max(0, Math.round(1000 * start));
  const toMs = Math.max(fromMs + 1, Math.round(1000 * end));
  return `${cueTime(fromMs, point)} --> ${cueTime(toMs, point)}`;
}

/** An empty line would end the cue. */
const oneLine = (text) => text.replace(/\s+/gu, " ").trim();

/** In SubRip nothing can be escaped: an arrow, which would look like a line of times, is drawn as one. */
const plain = (text) => oneLine(text).replaceAll("-->", "→");

const escape = (text) =>
  oneLine(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
