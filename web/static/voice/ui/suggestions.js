/**
 * What the user can say to the model: shown until the first text of a call, and again after it.
 *
 * A question with a recording is a button that asks it; others are text.
 *
 * The suggestions come from the server, which reads them from the model's config.json; they are inserted as text,
 * never as markup. Without suggestions nothing is shown.
 */

import { moveFocusFrom } from "../focus.js";
import { Listener } from "../listener.js";
import { recordingOf } from "../questions.js";

export class Suggestions extends Listener {
  /** `ask(question, url)`: play the recording of a question to the model. */
  constructor({ ask }) {
    super();
    this._ask = ask;
    this._section = document.getElementById("suggestions");
    this._key = "";
    this._hasText = false;
  }

  on_health({ health }, _phase, facts) {
    if (health?.model) this._show(health.model, facts); // absent while the model is loading
  }

  on_connection_established({ model }, _phase, facts) {
    this._show(model, facts);
  }

  on_opening() {
    this._hasText = false;
  }

  on_text({ text }, _phase, facts) {
    if (this._hasText || text === "") return;
    this._hasText = true;
    this._update(facts);
  }

  on_user_text(event, phase, facts) {
    this.on_text(event, phase, facts);
  }

  onState(_state, facts) {
    this._update(facts);
  }

  /** Without a microphone the questions stay: they are the way to go on. */
  _update({ phase, isSample, withoutMicrophone }) {
    const isEmpty = this._section.childElementCount === 0;
    const isHidden = isEmpty || isSample || (this._hasText && phase !== "idle" && !withoutMicrophone);
    if (isHidden === this._section.hidden) return;
    if (isHidden) moveFocusFrom(this._section, document.getElementById("talk"));
    this._section.hidden = isHidden;
  }

  _show({ about, suggestions }, facts) {
    const key = JSON.stringify([about, suggestions]);
    if (key === this._key) return; // /health is polled: unchanged content keeps the reader's place
    this._key = key;
    this._section.replaceChildren(
      ...(about ? [element("p", about)] : []),
      ...(suggestions?.length > 0 ? this._list(suggestions) : []),
    );
    this._update(facts);
  }

  _list(suggestions) {
    const title = element("h2", "Try asking:");
    title.id = "suggestions-title";
    const list = document.createElement("ul");
    list.setAttribute("role", "list"); // Safari drops the role of a list without bullets
    list.setAttribute("aria-labelledby", title.id);
    list.append(...suggestions.map((suggestion) => this._item(suggestion)));
    const isAnyRecorded = suggestions.some((suggestion) => recordingOf(suggestion) !== null);
    const hint = isAnyRecorded ? [element("small", "Say it in a conversation, or press it: a recording is played to the agent, without your microphone.")] : [];
    return [title, list, ...hint];
  }

  _item(suggestion) {
    const url = recordingOf(suggestion);
    if (url === null) return element("li", `“${suggestion}”`);
    const item = document.createElement("li");
    const button = element("button", `“${suggestion}”`);
    button.type = "button";
    button.className = "pill ask";
    button.addEventListener("click", () => this._ask(suggestion, url));
    item.append(button);
    return item;
  }
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
