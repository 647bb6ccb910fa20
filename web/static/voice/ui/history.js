/**
 * Past conversations of this browser: off by default; each can be read, copied, saved and deleted.
 *
 * One conversation is kept by the button beside the transcript, every one by the setting. `onEvent({kind: "kept",
 * state})` says what becomes of the current one: `not_kept`, `kept` or `failed`.
 */

import { moveFocusFrom } from "../focus.js";
import { HistoryStore } from "../history-store.js";
import { plainText, sentenceCase } from "../transcript-log.js";
import { copyText, saveFile, timestamp } from "../save-file.js";
import { formatDate } from "../units.js";
import { createLine, updateLine } from "./transcript.js";

const CURRENT = Object.freeze({
  not_kept: "The conversation above is not kept here.",
  kept: "The conversation above is kept.",
  failed: "This browser does not store the conversation: its storage is full or switched off. Save it as a file instead.",
});
const COPIED_MS = 3000;
const MARKUP = `
<p class="faint" id="history-current" role="status" hidden></p>
<label class="check"><input type="checkbox" id="history-keep"> Keep every conversation on this device <small>Off by default. Stored in this browser only.</small></label>
<p class="faint" id="history-empty">No conversations are kept.</p>
<ul id="history-list"></ul>
<button type="button" class="pill" id="history-clear" hidden>Delete all</button>
`;

export class History {
  constructor({ log, preferences, onChange, onEvent }) {
    const get = (id) => document.getElementById(id);
    get("history").insertAdjacentHTML("beforeend", MARKUP);
    this._log = log;
    this._preferences = preferences;
    this._onEvent = onEvent;
    this._store = new HistoryStore(localStorage);
    this._id = crypto.randomUUID?.() ?? String(Date.now()); // of the conversations since the page was opened
    this._list = get("history-list");
    this._empty = get("history-empty");
    this._clear = get("history-clear");
    this._current = get("history-current");
    this._keep = get("history-keep");
    this._keep.checked = preferences.history;
    this._keep.addEventListener("change", () => {
      preferences.history = this._keep.checked;
      onChange("history");
      this._isDeleted = false;
      this._save();
    });
    this._isChosen = false; // the current conversation, by its button
    this._isDeleted = false; // the current conversation, which is not kept again then
    this._state = "not_kept";
    this._items = new Map(); // by id: {item, shown}, so that one that is open stays open
    this._clear.addEventListener("click", () => {
      if (!confirm("Delete all stored conversations?")) return;
      moveFocusFrom(this._clear, this._keep);
      this._store.clear();
      this._forgetCurrent();
      this._render();
    });
    addEventListener("pagehide", () => this._save()); // a page that is closed during a call
    get("history").addEventListener("toggle", () => this._render());
    this._render(); // it may have been opened before it was loaded
  }

  /** Whether the conversation is kept here anyway. */
  get isKept() {
    return this._state === "kept";
  }

  /** Keep the current conversation, whatever the setting says. */
  keep() {
    this._isChosen = true;
    this._isDeleted = false;
    this._save();
  }

  onEvent(event) {
    if (event.kind === "ready") this._isDeleted = false;
    const isComplete = (event.kind === "text" || event.kind === "user_text") && event.final;
    if (isComplete || event.kind === "ended") this._save();
  }

  _save() {
    const isWanted = (this._preferences.history || this._isChosen) && !this._isDeleted;
    if (isWanted && !this._log.isEmpty) {
      this._setState(this._store.save(this._id, this._log.toJSON()) ? "kept" : "failed");
    }
    this._render();
  }

  _forgetCurrent() {
    this._isChosen = false;
    this._isDeleted = true;
    this._setState("not_kept");
  }

  _setState(state) {
    if (state === this._state) return;
    this._state = state;
    this._onEvent({ kind: "kept", state });
  }

  _render() {
    const conversations = this._store.list();
    const items = conversations.map((one) => this._itemOf(one));
    const kept = new Set(conversations.map(({ id }) => id));
    for (const id of this._items.keys()) if (!kept.has(id)) this._items.delete(id);
    for (const item of [...this._list.children]) if (!items.includes(item)) item.remove();
    items.forEach((item, i) => {
      if (this._list.children[i] !== item) this._list.insertBefore(item, this._list.children[i] ?? null);
    });
    this._empty.hidden = conversations.length > 0;
    this._clear.hidden = conversations.length === 0;
    this._current.hidden = this._log.isEmpty;
    if (this._current.textContent !== CURRENT[this._state]) this._current.textContent = CURRENT[this._state];
  }

  /** The list item, made anew only where the conversation has changed. */
  _itemOf(conversation) {
    const shown = JSON.stringify(conversation);
    const known = this._items.get(conversation.id);
    if (known?.shown === shown) return known.item;
    const item = this._item(conversation);
    if (known?.item.querySelector("details").open) item.querySelector("details").open = true;
    this._items.set(conversation.id, { item, shown });
    return item;
  }

  _item(conversation) {
    const item = document.createElement("li");
    const when = formatDate(conversation.startedAt ?? 0);
    const spoken = conversation.lines.filter(({ text }) => text);
    const first = (spoken.find(({ who }) => who === "user") ?? spoken[0])?.text ?? ""; // the agent often greets alike
    const count = spoken.length;
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    const words = document.createElement("span");
    words.textContent = `${when}: ${sentenceCase(first).slice(0, 80)} (${count === 1 ? "1 line" : `${count} lines`})`;
    summary.append(words);
    details.append(summary);
    details.addEventListener("toggle", () => this._fill(details, conversation, when));
    item.append(details);
    return item;
  }

  /** The lines and the buttons, once it is opened. */
  _fill(details, conversation, when) {
    if (!details.open || details.childElementCount > 1) return;
    const lines = document.createElement("ol");
    lines.className = "lines";
    lines.tabIndex = 0;
    lines.setAttribute("aria-label", `Conversation of ${when}`);
    for (const { atS, ...line } of conversation.lines) {
      const shown = { ...line, atMs: 1000 * atS, final: true };
      const element = createLine(shown);
      updateLine(element, shown);
      lines.append(element);
    }
    const actions = document.createElement("div");
    actions.className = "actions";
    const name = `conversation-${timestamp(conversation.startedAt ?? 0)}`;
    const save = (content, type, suffix) =>
      saveFile(new Blob([content], { type: `${type};charset=utf-8` }), `${name}.${suffix}`);
    const { id, ...data } = conversation;
    const note = document.createElement("span");
    note.setAttribute("role", "status");
    actions.append(
      button("Copy", `Copy the conversation of ${when}`, () => this._copy(plainText(conversation), note)),
      button("TXT", `Save as TXT: the conversation of ${when}`, () => save(plainText(conversation), "text/plain", "txt")),
      button("JSON", `Save as JSON: the conversation of ${when}`, () =>
        save(`${JSON.stringify(data, null, 2)}\n`, "application/json", "json"),
      ),
      button("Delete", `Delete the conversation of ${when}`, () => this._delete(id, when, details)),
      note,
    );
    details.append(...(conversation.note ? [faint(conversation.note)] : []), lines, actions);
  }

  async _copy(text, note) {
    note.textContent = (await copyText(text)) ? "Copied." : "The browser did not allow copying. Save it instead.";
    setTimeout(() => (note.textContent = ""), COPIED_MS);
  }

  _delete(id, when, details) {
    if (!confirm(`Delete the conversation of ${when}?`)) return;
    moveFocusFrom(details, this._keep);
    this._store.delete(id);
    if (id === this._id) this._forgetCurrent();
    this._render();
  }
}

function faint(text) {
  const made = document.createElement("p");
  made.className = "faint";
  made.textContent = text;
  return made;
}

function button(label, name, run) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "pill small";
  made.textContent = label;
  made.setAttribute("aria-label", name);
  made.addEventListener("click", run);
  return made;
}
