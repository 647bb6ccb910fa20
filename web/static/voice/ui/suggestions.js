/**
 * What the user can say to the model: shown until the first text of a call, and again after it.
 *
 * A question with a recording is a button that asks it; others are text.
 *
 * The suggestions come from the server, which reads them from the model's config.json; they are inserted as text,
 * never as markup. Without suggestions nothing is shown.
 */

import { moveFocusFrom } from "../focus.js";
import { recordingOf } from "../questions.js";

export class Suggestions {
  /** `ask(question, url)`: play the recording of a question to the model. */
  constructor({ ask }) {
    this._ask = ask;
    this._section = document.getElementById("suggestions");
    this._key = "";
    this._hasText = false;
  }

  onEvent(event, phase, facts) {
    this._isNeeded = facts?.withoutMicrophone === true && facts.isSample !== true;
    this._isSample = facts?.isSample === true;
    switch (event.kind) {
      case "microphone_opened":
      case "ready":
        break;
      case "health":
        if (event.health?.model) this._show(event.health.model); // absent while the model is loading
        break;
      case "connection_established":
        this._show(event.model);
        break;
      case "opening":
        this._hasText = false;
        break;
      case "text":
      case "user_text":
        this._hasText ||= event.text !== "";
        break;
      case "ended":
      case "failed":
        break;
      default:
        return;
    }
    this._update(phase);
  }

  /** Without a microphone the questions stay: they are the way to go on. */
  _update(phase) {
    const isEmpty = this._section.childElementCount === 0;
    const isHidden = isEmpty || this._isSample || (this._hasText && phase !== "idle" && !this._isNeeded);
    if (isHidden) moveFocusFrom(this._section, document.getElementById("talk"));
    this._section.hidden = isHidden;
  }

  _show({ about, suggestions }) {
    const key = JSON.stringify([about, suggestions]);
    if (key === this._key) return; // /health is polled: unchanged content keeps the reader's place
    this._key = key;
    this._section.replaceChildren(
      ...(about ? [element("p", about)] : []),
      ...(suggestions?.length > 0 ? this._list(suggestions) : []),
    );
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
