/**
 * The transcript on the page: the lines of transcript-log.js, buttons to copy and save them, and what becomes of them.
 *
 * Neighbour: ui/history.js keeps conversations in this browser. Text from the model is inserted as text, never as markup.
 */

import { moveFocusFrom } from "../focus.js";
import { sentenceCase } from "../transcript-log.js";
import { copyText, saveFile, timestamp } from "../save-file.js";
import { formatDuration } from "../units.js";

const MAX_LINES = 500;
const AUDIBLE_RMS = 0.01;
const NEAR_END_PX = 120;
const INTERRUPTED = " – interrupted";
const CAPTIONING = new Set(["loading", "on", "behind"]);
const KEEPING = Object.freeze({
  not_kept: "Gone when this page is closed or reloaded, unless you save or keep it.",
  saved: "Saved as a file.",
  kept: "Kept on this device: see Past conversations below.",
  failed: "This browser does not store it: its storage is full or switched off. Save it as a file instead.",
});

export class Transcript {
  wantsAudio = true;

  /** `keep()`: keep the conversation in this browser. */
  constructor(log, { keep }) {
    const get = (id) => document.getElementById(id);
    this._log = log;
    this._list = get("lines");
    this._empty = get("lines-empty");
    this._note = get("lines-note");
    this._status = get("transcript-status");
    this._ownWords = get("own-words");
    this._isCaptioning = false;
    this._keeping = get("keeping");
    this._keepingText = get("keeping-text");
    this._keep = get("keep-conversation");
    this._keep.addEventListener("click", keep);
    this._kept = "not_kept"; // one of KEEPING
    this._shown = new Map(); // elements by line
    this._wasInterrupted = false;
    this._hasStarted = false;
    this._agentRms = 0;
    this._savedLength = 0; // of the text that was saved or copied last
    this._fileLength = 0; // of the text that was saved last
    this._buttons = ["copy-lines", "save-lines-txt", "save-lines-json"].map(get);
    get("copy-lines").addEventListener("click", () => this._copy());
    get("save-lines-txt").addEventListener("click", () => this._save(this._log.text(), "text/plain", "txt"));
    const json = () => `${JSON.stringify(this._log.toJSON(), null, 2)}\n`;
    get("save-lines-json").addEventListener("click", () => this._save(json(), "application/json", "json"));
    this._isAtEnd = true;
    this._list.addEventListener("scroll", () => (this._isAtEnd = this._distanceToEnd < NEAR_END_PX), { passive: true });
    new ResizeObserver(() => this._keepAtEnd()).observe(this._list); // a notice takes part of its place
    this._render();
  }

  /** Whether the transcript contains something that was neither copied nor saved. */
  get isUnsaved() {
    return !this._log.isEmpty && this._log.text().length !== this._savedLength;
  }

  onEvent(event, phase, { isSample }) {
    if (event.kind === "captions") this._isCaptioning = CAPTIONING.has(event.state);
    if (event.kind === "kept") this._kept = event.state;
    this._phase = phase;
    if (isSample) return; // nobody talks
    const nowMs = performance.now();
    switch (event.kind) {
      case "connection_established":
        this._note.hidden = event.model.text !== "ids";
        this._list.dataset.text = event.model.text;
        this._log.model = event.model.name;
        return;
      case "played":
        this._agentRms = event.rms;
        return;
      case "speaking":
        if (phase === "live") this._log.speaking(event.speaking, nowMs, this._agentRms > AUDIBLE_RMS);
        return;
      case "text":
        this._log.agentText(event, nowMs);
        break;
      case "user_text":
        this._log.userText(event, nowMs);
        break;
      case "ready":
        this._onReady(nowMs);
        break;
      case "captions":
      case "kept":
        break;
      case "resumed":
        this._wasInterrupted = false;
        return;
      case "lost":
        this._wasInterrupted = this._hasStarted; // open lines stay open: after a resume the utterance continues
        return;
      case "opening":
        this._hasStarted = false;
        break;
      case "closing":
        this._log.cutOff(nowMs, this._agentRms > AUDIBLE_RMS);
        break;
      case "ended":
      case "failed":
        this._wasInterrupted = false;
        if (event.why !== "stopped") this._log.cutOff(nowMs, this._agentRms > AUDIBLE_RMS);
        this._log.close("agent");
        this._log.close("user");
        break;
      default:
        return;
    }
    this._render();
  }

  _onReady(nowMs) {
    if (this._wasInterrupted) this._log.restart("New conversation: the previous one could not be resumed.");
    else if (!this._hasStarted) this._log.start(nowMs, Date.now());
    this._hasStarted = true;
    this._wasInterrupted = false;
  }

  /** Bring the list up to date with the log. */
  _render() {
    const { lines } = this._log;
    for (const [line, element] of this._shown) {
      if (lines.includes(line)) continue;
      element.remove();
      this._shown.delete(line);
    }
    for (const line of lines.slice(-MAX_LINES)) this._show(line);
    while (this._list.childElementCount > MAX_LINES) this._list.firstElementChild.remove();
    this._empty.hidden = lines.length > 0;
    for (const button of this._buttons) button.disabled = this._log.isEmpty;
    this._ownWords.hidden = this._isCaptioning || !this._log.isWithoutUser;
    this._showKeeping();
    this._keepAtEnd();
  }

  /** After a conversation: what becomes of it. */
  _showKeeping() {
    const isHidden = this._phase !== "idle" || this._log.isEmpty;
    if (isHidden) moveFocusFrom(this._keeping, document.getElementById("talk"));
    this._keeping.hidden = isHidden;
    if (isHidden) return; // what follows reads the whole transcript, which grows with every word of a call
    const isSaved = this._kept !== "kept" && this._log.text().length === this._fileLength;
    const text = KEEPING[isSaved ? "saved" : this._kept];
    if (this._keepingText.textContent !== text) this._keepingText.textContent = text;
    const isKept = this._kept === "kept";
    if (isKept) moveFocusFrom(this._keep, document.getElementById("copy-lines"));
    this._keep.hidden = isKept;
  }

  get _distanceToEnd() {
    return this._list.scrollHeight - this._list.clientHeight - this._list.scrollTop;
  }

  /** Show the latest line, unless the reader has scrolled up. */
  _keepAtEnd() {
    if (this._isAtEnd) this._list.scrollTop = this._list.scrollHeight;
  }

  _show(line) {
    const element = this._shown.get(line) ?? this._add(line);
    updateLine(element, line, { isIds: this._list.dataset.text === "ids" });
  }

  _add(line) {
    const element = createLine(line);
    this._shown.set(line, element);
    this._list.insertBefore(element, this._nextShown(line));
    return element;
  }

  /** The element before which a new line belongs: words that were recognized late precede the answer. */
  _nextShown(line) {
    const { lines } = this._log;
    for (let i = lines.length - 1, next = null; i >= 0; i -= 1) {
      if (lines[i] === line) return next;
      next = this._shown.get(lines[i]) ?? next;
    }
    return null;
  }

  async _copy() {
    const text = this._log.text();
    const isCopied = await copyText(text);
    if (isCopied) this._savedLength = text.length;
    this._announce(isCopied ? `Copied.${this._warning}` : "The browser did not allow copying. Save the transcript instead.");
  }

  _save(content, type, suffix) {
    saveFile(new Blob([content], { type: `${type};charset=utf-8` }), `conversation-${timestamp()}.${suffix}`);
    this._savedLength = this._fileLength = this._log.text().length;
    this._showKeeping();
    this._announce(`Saved.${this._warning}`);
  }

  get _warning() {
    return this._log.isOneSided ? " Your own words are not in it." : "";
  }

  _announce(text) {
    this._status.textContent = text;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => (this._status.textContent = ""), 4000 + 50 * text.length);
  }
}

/** The list item of a line of the log, without its text. */
export function createLine({ divider, who, atMs }) {
  const element = document.createElement("li");
  if (divider === undefined) {
    element.className = `line ${who}`;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = `${who === "agent" ? "Agent" : "You"} · ${formatDuration(atMs)}`;
    element.append(name, document.createElement("p"));
  } else {
    element.className = "divider";
    element.textContent = divider;
  }
  return element;
}

/** Show the text of a line as it is now; `isIds`: it is token IDs, not words. */
export function updateLine(element, line, { isIds = false } = {}) {
  if (line.divider !== undefined) return;
  element.classList.toggle("open", !line.final);
  element.classList.toggle("interrupted", line.interrupted);
  const body = element.lastElementChild;
  const text = isIds ? line.text : sentenceCase(line.text);
  if (body.textContent === (line.interrupted ? text + INTERRUPTED : text)) return;
  body.replaceChildren(text);
  if (!line.interrupted) return;
  const mark = document.createElement("small");
  mark.textContent = INTERRUPTED;
  body.append(mark);
}
