/**
 * What the agent says appears as it says it, and stays when it is said; each utterance stands there once.
 *
 * A partial text replaces the one before. What the model wrote is shown as text, never as markup.
 */

import { clock } from "../audio/recorder.js";

const LINES_LIMIT = 500;

export class Transcript {
  constructor() {
    this._list = document.getElementById("lines");
    this._empty = document.getElementById("lines-empty");
    this._note = document.getElementById("lines-note");
    this._open = { agent: null, user: null };
    this._sinceMs = null; // when this conversation began
    this._cut = false;
  }

  heed(event) {
    switch (event.kind) {
      case "connection_established":
        this._note.hidden = event.model.text !== "ids";
        this._list.dataset.text = event.model.text;
        return;
      case "text":
        this._write("agent", event);
        return;
      case "user_text":
        this._write("user", event);
        return;
      case "ready":
        this._close("agent");
        if (this._cut) this._divide("A new conversation began: the one before could not be resumed.");
        this._sinceMs ??= performance.now();
        this._cut = false;
        return;
      case "resumed":
        this._cut = false;
        return;
      case "lost":
        this._cut = this._sinceMs !== null; // what is open stays so: resumed, the same utterance goes on
        return;
      case "opening":
        this._sinceMs = null;
        if (!event.echo && this._list.childElementCount > 0) this._divide("A new conversation");
        return;
      case "ended":
      case "failed":
        this._cut = false;
        this._close("agent");
        this._close("user");
        return;
      default:
    }
  }

  _write(who, { text, final }) {
    if (text === "" && this._open[who] === null) return;
    this._open[who] ??= this._line(who);
    const body = this._open[who].lastElementChild;
    body.textContent = text;
    if (text === "") this._open[who].remove(); // it was nothing after all
    if (final || text === "") this._close(who);
    this._follow();
  }

  _close(who) {
    this._open[who]?.classList.remove("open");
    this._open[who] = null;
  }

  _line(who) {
    const line = document.createElement("li");
    line.className = `line ${who} open`;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = `${who === "agent" ? "Agent" : "You"} · ${clock(performance.now() - this._sinceMs)}`;
    const body = document.createElement("p");
    line.append(name, body);
    this._append(line);
    return line;
  }

  _divide(sentence) {
    const line = document.createElement("li");
    line.className = "divider";
    line.textContent = sentence;
    this._append(line);
  }

  _append(line) {
    this._empty.hidden = true;
    this._list.append(line);
    while (this._list.childElementCount > LINES_LIMIT) this._list.firstElementChild.remove();
    this._follow();
  }

  /** Keep the newest in sight, unless the reader has scrolled away from it. */
  _follow() {
    const { scrollTop, clientHeight, scrollHeight } = this._list;
    if (scrollHeight - clientHeight - scrollTop < 120) this._list.scrollTop = scrollHeight;
  }
}
