/**
 * Export formats: plain text, SubRip, WebVTT and JSON.
 *
 * `result` is `{ segments, info }` from the engine; times are in seconds. A cue always ends after it starts, because
 * players reject others. Sources: the WebVTT specification (cue text, timestamps); SubRip has no specification, so
 * what players agree on.
 */

import { cueTime } from "./format.js";

/** By file extension: MIME type and serializer. */
export const FORMATS = Object.freeze({
  txt: { type: "text/plain", serialize: toText },
  srt: { type: "application/x-subrip", serialize: toSubRip },
  vtt: { type: "text/vtt", serialize: toWebVtt },
  json: { type: "application/json", serialize: toJson },
});

/** One line per segment. */
export function toText({ segments }) {
  return segments.map(({ text }) => `${oneLine(text)}\n`).join("");
}

export function toSubRip({ segments }) {
  const cue = ({ text, ...times }, i) => `${i + 1}\n${span(times, ",")}\n${plain(text)}\n`;
  return segments.map(cue).join("\n");
}

/** Without the language: WebVTT has no field for it. */
export function toWebVtt({ segments }) {
  const cue = ({ text, ...times }) => `\n${span(times, ".")}\n${escape(text)}\n`;
  return `WEBVTT\n${segments.map(cue).join("")}`;
}

/** The complete result, with the engine's names. */
export function toJson({ segments, info }) {
  return `${JSON.stringify({ info, segments }, null, 2)}\n`;
}

function span({ start, end }, point) {
  const fromMs = Math.max(0, Math.round(1000 * start));
  const toMs = Math.max(fromMs + 1, Math.round(1000 * end));
  return `${cueTime(fromMs, point)} --> ${cueTime(toMs, point)}`;
}

/** Without line breaks: an empty line would end the cue. */
const oneLine = (text) => text.replace(/\s+/gu, " ").trim();

/** SubRip has no escaping: "-->" would look like a line of timestamps, so it is replaced by an arrow. */
const plain = (text) => oneLine(text).replaceAll("-->", "→");

const escape = (text) =>
  oneLine(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
