/**
 * The transcript as data: one line per answer of the agent and per utterance of the user, and its export.
 *
 * A partial text replaces the previous one. The server closes an utterance after about a second of silence, so two
 * quick answers can be one utterance: a line also ends where the user spoke in between. A pause alone ends none: it
 * may be the network's.
 * Lines are in the order in which they began to be spoken: the user's words are recognized later than that.
 * No clock and no page: times are passed in. Neighbour: ui/transcript.js shows it.
 */

import { formatDate, formatDuration } from "./units.js";

const ANSWER_GAP_MS = 400; // words of one answer follow each other faster
const TALKING_MS = 1000; // the agent is talking if its text grew within this time
const WORD_MS = 700; // a sentence has been said whole when its last word began this long ago
const SENTENCE_END = /[.!?]$/;
const ONE_SIDED = "Only the agent's words: nothing wrote down what you said.";
const PARTLY_ONE_SIDED = "Some of what you said may be missing: it was not written down all the time.";
const NAMES = Object.freeze({ agent: "Agent", user: "You" });

export class TranscriptLog {
  constructor() {
    this.lines = []; // {who, text, atMs, final, interrupted}, or {divider}
    this.startedAt = null; // epoch milliseconds of the first conversation
    this.model = null;
    this._startedMs = null; // of the current conversation, on the clock of `nowMs`
    this._open = { agent: null, user: null };
    this._hasUserSpoken = false;
    this._captioning = { isOn: false, wasOn: false, wasMissed: false }; // missed: the user spoke while it was not on
    this._utterance = ""; // the agent's, so far
    this._shown = 0; // characters of it that earlier lines contain
    this._grewMs = -Infinity;
    this._turn = null; // {wasTalking, isOver}: the user spoke since the agent's text last grew
    this._changed = new Set(); // lines, for those who show them
  }

  /** The lines that have changed since this was last asked; one whose text is empty is gone. */
  takeChanged() {
    const changed = this._changed;
    this._changed = new Set();
    return changed;
  }

  get isEmpty() {
    return !this.lines.some(({ text }) => text);
  }

  /** Whether there is text of the agent's and none of the user's. */
  get isWithoutUser() {
    return !this.isEmpty && !this.lines.some(({ who }) => who === "user");
  }

  /** Whether the user has spoken, and none of it was written down. */
  get isOneSided() {
    return this._hasUserSpoken && !this.lines.some(({ who }) => who === "user");
  }

  /** Whether some of the user's words were written down, and others not. */
  get isPartlyOneSided() {
    const { wasOn, wasMissed } = this._captioning;
    return wasOn && wasMissed && !this.isOneSided;
  }

  /** Whether the user's words are being written down. */
  setCaptioning(isOn) {
    this._captioning.isOn = isOn;
    this._captioning.wasOn ||= isOn;
  }

  /** A conversation starts; the first one needs no divider. Times begin anew, so the divider has the date. */
  start(nowMs, epochMs, divider = null) {
    if (this.lines.length > 0) this._divide(divider ?? `New conversation, ${formatDate(epochMs)}`);
    this.startedAt ??= epochMs;
    this._startedMs = nowMs;
  }

  /** The session could not be resumed: what follows is a new one. */
  restart(divider) {
    this.close("agent");
    this._divide(divider);
  }

  /** The agent's utterance so far, or its final text. */
  agentText({ text, final }, nowMs) {
    const grew = text.length > this._utterance.length;
    if (grew && this._open.agent !== null && this._isNewAnswer(nowMs)) {
      this._open.agent.interrupted = this._turn?.wasTalking ?? false;
      this._close("agent");
      this._shown = this._utterance.length;
    }
    if (grew) {
      this._grewMs = nowMs;
      if (this._turn?.isOver) this._turn = null;
    }
    this._utterance = text;
    if (text.length < this._shown) this._shown = 0;
    this._update("agent", text.slice(this._shown).trim(), nowMs);
    if (!final) return;
    if (this._turn?.wasTalking && this._open.agent !== null) this._open.agent.interrupted = true;
    this.close("agent");
  }

  /** The user's utterance so far, or its final text; `spokenMs`: when it began, which is before it was recognized. */
  userText({ text, final, spokenMs = null }, nowMs) {
    this._update("user", text.trim(), Math.min(spokenMs ?? nowMs, nowMs));
    if (final || text.trim() === "") this._close("user");
  }

  /** The user started or stopped speaking; `isAudible`: whether the agent's audio is being played. */
  speaking(speaking, nowMs, isAudible = false) {
    if (!speaking) {
      if (this._turn !== null) this._turn.isOver = true;
      return;
    }
    this._hasUserSpoken = true;
    this._captioning.wasMissed ||= !this._captioning.isOn;
    if (this._open.agent === null) return;
    const wasTalking = this._isTalking(nowMs, isAudible);
    this._turn = { wasTalking: wasTalking || (this._turn?.wasTalking ?? false), isOver: false };
  }

  /** The conversation ends here, whether or not the agent has finished. */
  cutOff(nowMs, isAudible = false) {
    if (this._open.agent === null || !this._isTalking(nowMs, isAudible)) return;
    this._open.agent.interrupted = true;
    this._changed.add(this._open.agent);
  }

  /** The open line of one side is final as it is. */
  close(who) {
    if (who === "agent") {
      this._utterance = "";
      this._shown = 0;
      this._turn = null;
    }
    this._close(who);
  }

  /** As plain text: one line each, with its time. */
  text() {
    return plainText(this.toJSON());
  }

  /** For JSON: times in seconds from the start of each conversation. */
  toJSON() {
    const line = ({ divider, who, text, atMs, interrupted }) =>
      divider !== undefined ? { divider } : { atS: Math.round(atMs) / 1000, who, text, interrupted };
    return {
      startedAt: this.startedAt === null ? null : new Date(this.startedAt).toISOString(),
      model: this.model,
      ...(this._note === null ? {} : { note: this._note }),
      lines: this.lines.map(line),
    };
  }

  get _note() {
    if (this.isOneSided) return ONE_SIDED;
    return this.isPartlyOneSided ? PARTLY_ONE_SIDED : null;
  }

  _isTalking(nowMs, isAudible) {
    const sinceMs = nowMs - this._grewMs;
    if (sinceMs >= WORD_MS && SENTENCE_END.test(this._utterance.trimEnd())) return false;
    return isAudible || sinceMs < TALKING_MS;
  }

  _isNewAnswer(nowMs) {
    return this._turn?.isOver === true && nowMs - this._grewMs >= ANSWER_GAP_MS;
  }

  _update(who, text, beganMs) {
    const line = this._open[who];
    if (line === null) {
      if (text !== "") this._begin(who, text, beganMs);
      return;
    }
    line.text = text;
    this._changed.add(line);
    if (text !== "") return;
    this.lines.splice(this.lines.indexOf(line), 1); // it turned out to be empty
    this._open[who] = null;
  }

  _begin(who, text, beganMs) {
    const line = { who, text, atMs: Math.max(0, beganMs - (this._startedMs ?? beganMs)), final: false, interrupted: false };
    this._open[who] = line;
    this._changed.add(line);
    this._insert(line);
  }

  /** Add a line after those of this conversation that began no later. */
  _insert(line) {
    let at = this.lines.length;
    while (at > 0 && this.lines[at - 1].atMs > line.atMs) at -= 1; // a divider has no time, so nothing passes it
    this.lines.splice(at, 0, line);
  }

  _close(who) {
    const line = this._open[who];
    if (line === null) return;
    line.final = true;
    this._changed.add(line);
    this._open[who] = null;
  }

  _divide(divider) {
    this.close("agent");
    this.close("user");
    const line = { divider };
    this.lines.push(line);
    this._changed.add(line);
  }
}

/** A conversation as plain text: the one of the page, or one that was kept; `conversation` as from `toJSON()`. */
export function plainText({ startedAt, model, note, lines }) {
  const head = `Conversation of ${formatDate(startedAt ?? 0)}${model ? `, model ${model}` : ""}\n${note ? `${note}\n` : ""}\n`;
  const line = ({ divider, who, text, atS, interrupted }) =>
    divider !== undefined
      ? `--- ${divider} ---\n`
      : `${formatDuration(1000 * atS)}  ${NAMES[who]}: ${sentenceCase(text)}${interrupted ? " … (interrupted)" : ""}\n`;
  return head + lines.map(line).join("");
}

/** The text with a capital at the start of each sentence. */
export function sentenceCase(text) {
  return text.replace(/(?:^|[.!?]\s+)\S/g, (start) => start.toUpperCase());
}
