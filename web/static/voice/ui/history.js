/** Past conversations of this browser: off by default, listed, saved, deleted one by one or all at once. */

import { moveFocusFrom } from "../focus.js";
import { HistoryStore } from "../history-store.js";
import { sentenceCase } from "../transcript-log.js";
import { saveFile } from "../save-file.js";

export class History {
  constructor(log, preferences, { onChange }) {
    const get = (id) => document.getElementById(id);
    this._log = log;
    this._preferences = preferences;
    this._store = new HistoryStore(localStorage);
    this._id = crypto.randomUUID?.() ?? String(Date.now()); // of the conversations since the page was opened
    this._list = get("history-list");
    this._empty = get("history-empty");
    this._clear = get("history-clear");
    this._keep = get("history-keep");
    this._keep.checked = preferences.history;
    this._keep.addEventListener("change", () => {
      preferences.history = this._keep.checked;
      onChange("history");
      this._save();
    });
    this._problem = get("history-problem");
    this._isStored = false;
    this._clear.addEventListener("click", () => {
      if (!confirm("Delete all stored conversations?")) return;
      moveFocusFrom(this._clear, this._keep);
      this._store.clear();
      this._isStored = false;
      this._render();
    });
    addEventListener("pagehide", () => this._save()); // a page that is closed during a call
    get("history").addEventListener("toggle", () => this._render());
  }

  /** Whether the conversation is kept here anyway. */
  get isKept() {
    return this._preferences.history && this._isStored;
  }

  onEvent(event) {
    const isComplete = (event.kind === "text" || event.kind === "user_text") && event.final;
    if (isComplete || event.kind === "ended") this._save();
  }

  _save() {
    if (this._preferences.history && !this._log.isEmpty) {
      this._isStored = this._store.save(this._id, this._log.toJSON());
      this._problem.hidden = this._isStored;
    }
    this._render();
  }

  _render() {
    const conversations = this._store.list();
    this._list.replaceChildren(...conversations.map((one) => this._item(one)));
    this._empty.hidden = conversations.length > 0;
    this._clear.hidden = conversations.length === 0;
  }

  _item(conversation) {
    const item = document.createElement("li");
    const when = new Date(conversation.startedAt).toLocaleString();
    const words = document.createElement("span");
    const first = conversation.lines.find(({ text }) => text)?.text ?? "";
    const count = conversation.lines.filter(({ text }) => text).length;
    words.textContent = `${when}: ${sentenceCase(first).slice(0, 80)} (${count === 1 ? "1 line" : `${count} lines`})`;
    const name = `conversation-${(conversation.startedAt ?? "").slice(0, 19).replaceAll(":", "-")}.json`;
    item.append(
      words,
      this._button("Save", when, () => {
        saveFile(new Blob([`${JSON.stringify(conversation, null, 2)}\n`], { type: "application/json" }), name);
      }),
      this._button("Delete", when, () => {
        moveFocusFrom(item, this._keep);
        this._store.delete(conversation.id);
        this._isStored &&= conversation.id !== this._id;
        this._render();
      }),
    );
    return item;
  }

  _button(label, when, run) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pill";
    button.textContent = label;
    button.setAttribute("aria-label", `${label} the conversation of ${when}`);
    button.addEventListener("click", run);
    return button;
  }
}
