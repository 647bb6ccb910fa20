/**
 * The transcript on the page: the lines of transcript-log.js, buttons to copy and save them, and what becomes of them.
 *
 * Neighbour: ui/history.js keeps conversations in this browser. Text from the model is inserted as text, never as markup.
 */

import { moveFocusFrom } from "../focus.js";
import { Listener } from "../listener.js";
import { sentenceCase } from "../transcript-log.js";
import { copyText, saveFile, timestamp } from "../save-file.js";
import { formatDuration } from "../units.js";

const MAX_LINES = 500;
const AUDIBLE_RMS = 0.01;
const NEAR_END_PX = 120;
const INTERRUPTED = " – interrupted";
const CAPTIONING = new Set(["loading", "on", "behind", "finishing"]);
const WRITING = new Set(["on", "behind"]);
const KEEPING = Object.freeze({
  not_kept: "Gone when this page is closed or reloaded, unless you save or keep it.",
  saved: "Saved as a file.",
  kept: "Kept on this device: see Past conversations below.",
  failed: "This browser does not store it: its storage is full or switched off. Save it as a file instead.",
});

export class Transcript extends Listener {
  /** `keep()`: keep the conversation in this browser. */
  constructor(log, { keep }) {
    super();
    const get = (id) => document.getElementById(id);
    this._log = log;
    this._list = get("lines");
    this._empty = get("lines-empty");
    this._note = get("lines-note");
    this._status = get("transcript-status");
    this._ownWords = get("own-words");
    this._isCaptioning = false;
    this._isFinishing = false; // the last words of the call are being written down
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
  }

  /** Whether the transcript contains something that was neither copied nor saved. */
  get isUnsaved() {
    return !this._log.isEmpty && this._log.text().length !== this._savedLength;
  }

  on_connection_established({ model }) {
    this._note.hidden = model.text !== "ids";
    this._list.dataset.text = model.text;
    this._log.model = model.name;
  }

  on_played({ rms }) {
    this._agentRms = rms;
  }

  on_speaking({ speaking }, phase) {
    if (phase === "live") this._log.speaking(speaking, performance.now(), this._isAudible);
  }

  on_text(event, _phase, { isSample }) {
    if (isSample) return; // nobody talks
    this._log.agentText(event, performance.now());
    this._showLines();
  }

  on_user_text(event, _phase, { isSample }) {
    if (isSample) return;
    this._log.userText(event, performance.now());
    this._showLines();
  }

  on_opening() {
    this._hasStarted = false;
  }

  on_ready(_event, _phase, { isSample }) {
    if (isSample) return;
    if (this._wasInterrupted) this._log.restart("New conversation: the previous one could not be resumed.");
    else if (!this._hasStarted) this._log.start(performance.now(), Date.now());
    this._hasStarted = true;
    this._wasInterrupted = false;
    this._showLines();
  }

  on_lost() {
    this._wasInterrupted = this._hasStarted; // open lines stay open: after a resume the utterance continues
  }

  on_resumed() {
    this._wasInterrupted = false;
  }

  on_closing() {
    this._log.cutOff(performance.now(), this._isAudible);
    this._showLines();
  }

  on_ended() {
    this._wasInterrupted = false;
    this._log.cutOff(performance.now(), this._isAudible); // also an answer that began after “Stop” was pressed
    this._log.close("agent");
    if (!this._isFinishing) this._log.close("user");
    this._showLines();
  }

  on_failed() {
    this.on_ended();
  }

  on_captions({ state }) {
    this._isCaptioning = CAPTIONING.has(state);
    this._log.setCaptioning(WRITING.has(state));
    this._showOwnWords();
    if (this._isFinishing !== (state === "finishing")) this._setFinishing(state === "finishing");
  }

  _setFinishing(isFinishing) {
    this._isFinishing = isFinishing;
    clearTimeout(this._timer);
    this._status.textContent = isFinishing ? "Writing down your last words…" : "";
    if (isFinishing || this._phase !== "idle") return;
    this._log.close("user");
    this._showLines();
  }

  on_kept({ state }) {
    this._kept = state;
    this._showKeeping();
  }

  onState(_state, { phase }) {
    if (phase === this._phase) return;
    this._phase = phase;
    this._showKeeping();
  }

  get _isAudible() {
    return this._agentRms > AUDIBLE_RMS;
  }

  /** Bring the list up to date with the log. */
  _showLines() {
    this._log.takeChanged().forEach((line) => {
      if (line.text === "") this._remove(line);
      else updateLine(this._shown.get(line) ?? this._add(line), line, { isIds: this._list.dataset.text === "ids" });
    });
    if (this._phase === "idle") this._showKeeping(); // words that were recognized after the end
    this._keepAtEnd();
  }

  _add(line) {
    const element = createLine(line);
    this._shown.set(line, element);
    this._list.insertBefore(element, this._nextShown(line));
    if (this._list.childElementCount > MAX_LINES) this._removeOldest();
    this._onCountChange();
    return element;
  }

  _remove(line) {
    this._shown.get(line)?.remove();
    this._shown.delete(line);
    this._onCountChange();
  }

  /** From the page; the log has it still. */
  _removeOldest() {
    const { firstElementChild: oldest } = this._list;
    oldest.remove();
    for (const [line, element] of this._shown) {
      if (element !== oldest) continue; // words that were recognized late
      this._shown.delete(line);
      return;
    }
  }

  /** There are more or fewer lines than before. */
  _onCountChange() {
    this._empty.hidden = this._log.lines.length > 0;
    this._buttons.forEach((button) => (button.disabled = this._log.isEmpty));
    this._showOwnWords();
  }

  _showOwnWords() {
    this._ownWords.hidden = this._isCaptioning || !this._log.isWithoutUser;
  }

  /** After a conversation: what becomes of it. */
  _showKeeping() {
    const isHidden = this._phase !== "idle" || this._log.isEmpty;
    if (isHidden) moveFocusFrom(this._keeping, document.getElementById("talk"));
    this._keeping.hidden = isHidden;
    if (isHidden) return;
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
    saveFile(new Blob([content], { type: `${type};charset=utf-8` }), `conversation-${timestamp(this._log.startedAt)}.${suffix}`);
    this._savedLength = this._fileLength = this._log.text().length;
    this._showKeeping();
    this._announce(`Saved.${this._warning}`);
  }

  get _warning() {
    if (this._log.isOneSided) return " Your own words are not in it.";
    return this._log.isPartlyOneSided ? " Some of your own words may be missing." : "";
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
