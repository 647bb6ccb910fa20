/**
 * The transcript: one line per utterance of the agent and of the user, updated while it grows.
 *
 * A partial text replaces the previous one. Text from the model is inserted as text, never as markup.
 */

import { formatDuration } from "../audio/recorder.js";

const MAX_LINES = 500;

export class Transcript {
  constructor() {
    this._list = document.getElementById("lines");
    this._empty = document.getElementById("lines-empty");
    this._note = document.getElementById("lines-note");
    this._open = { agent: null, user: null };
    this._startedMs = null; // when this conversation started
    this._wasInterrupted = false;
  }

  onEvent(event) {
    switch (event.kind) {
      case "connection_established":
        this._note.hidden = event.model.text !== "ids";
        this._list.dataset.text = event.model.text;
        return;
      case "text":
        this._update("agent", event);
        return;
      case "user_text":
        this._update("user", event);
        return;
      case "ready":
        this._close("agent");
        if (this._wasInterrupted) this._addDivider("New conversation: the previous one could not be resumed.");
        this._startedMs ??= performance.now();
        this._wasInterrupted = false;
        return;
      case "resumed":
        this._wasInterrupted = false;
        return;
      case "lost":
        this._wasInterrupted = this._startedMs !== null; // open lines stay open: after a resume the utterance continues
        return;
      case "opening":
        this._startedMs = null;
        if (!event.echo && this._list.childElementCount > 0) this._addDivider("New conversation");
        return;
      case "ended":
      case "failed":
        this._wasInterrupted = false;
        this._close("agent");
        this._close("user");
        return;
      default:
    }
  }

  _update(who, { text, final }) {
    if (text === "" && this._open[who] === null) return;
    this._open[who] ??= this._addLine(who);
    const body = this._open[who].lastElementChild;
    body.textContent = text;
    if (text === "") this._open[who].remove(); // the utterance turned out to be empty
    if (final || text === "") this._close(who);
    this._scrollToEnd();
  }

  _close(who) {
    this._open[who]?.classList.remove("open");
    this._open[who] = null;
  }

  _addLine(who) {
    const line = document.createElement("li");
    line.className = `line ${who} open`;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = `${who === "agent" ? "Agent" : "You"} · ${formatDuration(performance.now() - this._startedMs)}`;
    const body = document.createElement("p");
    line.append(name, body);
    this._append(line);
    return line;
  }

  _addDivider(text) {
    const line = document.createElement("li");
    line.className = "divider";
    line.textContent = text;
    this._append(line);
  }

  _append(line) {
    this._empty.hidden = true;
    this._list.append(line);
    while (this._list.childElementCount > MAX_LINES) this._list.firstElementChild.remove();
    this._scrollToEnd();
  }

  /** Scroll to the newest line, unless the reader has scrolled up. */
  _scrollToEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this._list;
    if (scrollHeight - clientHeight - scrollTop < 120) this._list.scrollTop = scrollHeight;
  }
}
