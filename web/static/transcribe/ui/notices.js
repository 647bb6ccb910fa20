/**
 * Notices over the page, and about the model in its card: problems and what to do about them, until they are over, each with a button for more help.
 */

import { refusalMessage } from "../../voice/ui/messages.js";
import { helpTopic, messageFor } from "./messages.js";

export class Notices {
  /** `help(topic)`: open the help. */
  constructor({ help }) {
    this._help = help;
    this._root = document.getElementById("notices");
    this._modelRoot = document.getElementById("model-notice"); // in its card, so that it covers no result
    this._shown = new Map(); // by key
  }

  onEvent(event) {
    switch (event.kind) {
      case "loading":
      case "cache_checked":
        this._hide("model");
        return;
      case "token_refused":
        this._showWords("token", "bad", event.why, refusalMessage(event, location));
        return;
      case "load_failed":
        this._show("model", "bad", event.why, event.message);
        return;
      case "decoding":
      case "opening":
        for (const key of ["audio", "engine", "kept", "sound"]) this._hide(key);
        return;
      case "sound_problem":
        if (event.why === null) this._hide("sound");
        else this._show("sound", "warn", event.why);
        return;
      case "microphone_lost":
        this._hide("sound");
        this._show("audio", "bad", event.why);
        return;
      case "failed":
        this._show("audio", "bad", event.why, event.message);
        return;
      case "audio_state":
        if (event.state === "running" || event.state === "closed") this._hide("suspended");
        else this._show("suspended", "warn", "audio_suspended");
        return;
      case "recycled":
        if (event.reason === "stalled" || event.reason === "crashed") this._show("engine", "warn", "recycled");
        return;
      case "dropped":
        this._show("engine", "warn", "dropped");
        return;
      case "not_kept":
      case "not_played":
        this._show("kept", "info", event.kind);
        return;
      default:
    }
  }

  _show(key, tone, why, message) {
    this._showWords(key, tone, why, messageFor(why, message, location));
  }

  _showWords(key, tone, why, { title, text, details }) {
    this._hide(key);
    const box = document.createElement("div");
    box.className = `notice ${tone}`;
    box.dataset.why = why;
    const strong = document.createElement("strong");
    strong.textContent = /[.!?:]$/.test(title) ? title : `${title}.`;
    const words = document.createElement("p");
    words.append(strong, " ", text);
    const help = button("Help", `Help: ${title}`, () => this._help(helpTopic(why)));
    const close = button("✕", `Close: ${title}`, () => this._hide(key));
    close.className = "close";
    box.append(words, help, close);
    if (details !== undefined) box.append(folded(details));
    (key === "model" ? this._modelRoot : this._root).append(box);
    this._shown.set(key, box);
  }

  _hide(key) {
    this._shown.get(key)?.remove();
    this._shown.delete(key);
  }
}

/** Technical details, for who wants them. */
function folded(text) {
  const made = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "Details";
  made.append(summary, text);
  return made;
}

function button(label, name, run) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.setAttribute("aria-label", name);
  made.addEventListener("click", run);
  return made;
}
