/**
 * What stands in the way is said above everything else, once, and goes when it is over.
 *
 * One notice for each matter, by key; `tone` is info, warn or bad. The sentences are in sentences.js.
 */

import { PROBLEMS, droppedSentence } from "./messages.js";

const PASSING_MS = 6000;

export class Notices {
  constructor({ resume }) {
    this._place = document.getElementById("notices");
    this._resume = resume;
    this._shown = new Map();
    if (!globalThis.isSecureContext) this._problem("sound", "insecure_context");
    else if (globalThis.AudioWorkletNode === undefined) this._problem("sound", "no_audio_worklet");
  }

  heed(event) {
    switch (event.kind) {
      case "health":
        this._health(event.health);
        return;
      case "opening":
        this._hide("sound");
        this._hide("server");
        return;
      case "failed":
      case "sound_lost":
        this._problem("sound", event.why);
        return;
      case "output_missing":
        this._problem("output", "output_missing");
        return;
      case "sound":
        if (event.state === "suspended" || event.state === "interrupted") this._suspended();
        else this._hide("suspended");
        return;
      case "error":
        if (event.code === "not_resumed") return; // the words on the page show where the new one begins
        this._show("server", "warn", "The server says", `${event.message}.`);
        return;
      case "recording":
        this._recorded(event);
        return;
      case "draining":
        this._show("server", "warn", "The server is shutting down", "This utterance is finished, then it ends.");
        return;
      case "dropped":
        this._show("dropped", "warn", "Something was left out", droppedSentence(event), PASSING_MS);
        return;
      case "vad":
        this._vad(event);
        return;
      case "lost": // the stage says why, and what is done about it
      case "ready":
      case "resumed":
      case "ended":
        this._hide("server");
        this._hide("suspended");
        return;
      default:
    }
  }

  _health(health) {
    if (health?.status === "unauthorized") {
      const text = "Open this page by the link the server's owner has: its address ends in #token=… .";
      this._show("health", "bad", "This server wants its token", text);
    } else if (health === null) {
      this._show("health", "bad", "The server does not answer", "Is it still running? This page keeps asking.");
    } else if (health.status === "not_ready") {
      this._show("health", "info", "The models are loading", "You can start as soon as they are there.");
    } else this._hide("health");
    if (health?.model?.trained === false) {
      const text = "Its weights are random: what it says is noise, honestly computed.";
      this._show("untrained", "info", "This model is untrained", text);
    } else if (health?.model) this._hide("untrained");
  }

  _recorded({ on, name }) {
    if (on) this._show("replay", "warn", "The server records this conversation", `As ${name}, on its own disk.`);
    else this._hide("replay");
  }

  _vad({ state, why }) {
    if (state !== "not_ready") {
      this._hide("vad");
      return;
    }
    const text =
      why === "missing"
        ? "Its files are not installed here: run “python -m web.vendor” on the server, then restart it."
        : "Its files are there, but did not load in this browser.";
    this._show("vad", "warn", "Voice detection is not ready", text);
  }

  _problem(key, why) {
    const { title, text } = PROBLEMS[why];
    this._show(key, "bad", title, text(location));
  }

  _suspended() {
    const { title, text } = PROBLEMS.sound_suspended;
    const box = this._show("suspended", "warn", title, text());
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Go on";
    button.addEventListener("click", this._resume);
    box.append(button);
  }

  _show(key, tone, title, text, passingMs) {
    const shown = this._shown.get(key);
    if (shown?.title === title && shown.text === text && passingMs === undefined) return shown.box;
    this._hide(key);
    const box = document.createElement("div");
    box.className = `notice ${tone}`;
    box.dataset.key = key;
    const strong = document.createElement("strong");
    strong.textContent = title;
    const body = document.createElement("span");
    body.textContent = text;
    box.append(strong, " ", body);
    this._place.append(box);
    const timer = passingMs === undefined ? null : setTimeout(() => this._hide(key), passingMs);
    this._shown.set(key, { box, title, text, timer });
    return box;
  }

  _hide(key) {
    const shown = this._shown.get(key);
    if (shown === undefined) return;
    clearTimeout(shown.timer);
    shown.box.remove();
    this._shown.delete(key);
  }
}
