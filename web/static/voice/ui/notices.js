/**
 * Notices at the top of the page: problems and conditions the user should know about, until they are over.
 *
 * One notice per topic, by key; `tone` is info, warn or bad. Neighbour: messages.js.
 */

import { PROBLEMS, droppedMessage } from "./messages.js";

const DROPPED_NOTICE_MS = 6000;

export class Notices {
  constructor({ resume }) {
    this._root = document.getElementById("notices");
    this._resume = resume;
    this._shown = new Map(); // by key
    if (!globalThis.isSecureContext) this._showProblem("audio", "insecure_context");
    else if (globalThis.AudioWorkletNode === undefined) this._showProblem("audio", "no_audio_worklet");
  }

  onEvent(event) {
    switch (event.kind) {
      case "health":
        this._onHealth(event.health);
        return;
      case "opening":
        this._hide("audio");
        this._hide("server");
        return;
      case "failed":
      case "audio_failed":
        this._showProblem("audio", event.why);
        return;
      case "output_missing":
        this._showProblem("output", "output_missing");
        return;
      case "audio_state":
        if (event.state === "suspended" || event.state === "interrupted") this._showSuspended();
        else this._hide("suspended");
        return;
      case "error":
        if (event.code === "not_resumed") return; // the transcript shows that a new conversation started
        if (event.code === "prompt_refused") return; // shown with the voice and the role
        this._show("server", "warn", "Server error", `${event.message}.`);
        return;
      case "recording":
        this._onServerRecording(event);
        return;
      case "draining":
        this._show("server", "warn", "The server is shutting down", "The conversation ends after this utterance.");
        return;
      case "dropped":
        this._show("dropped", "warn", "Audio dropped", droppedMessage(event), DROPPED_NOTICE_MS);
        return;
      case "vad":
        this._onVad(event);
        return;
      case "lost": // the call status shows why, and when the page reconnects
      case "ready":
      case "resumed":
      case "ended":
        this._hide("server");
        this._hide("suspended");
        return;
      default:
    }
  }

  _onHealth(health) {
    if (health?.status === "unauthorized") {
      const text = "Open this page with the link you were given; it ends in #token=….";
      this._show("health", "bad", "Token required", text);
    } else if (health === null) {
      this._show("health", "bad", "Cannot reach the server", "Is it still running? The page keeps trying.");
    } else if (health.status === "not_ready") {
      this._show("health", "info", "Loading models", "You can start as soon as they are loaded.");
    } else this._hide("health");
    if (health?.model?.trained === false) {
      const text = "Its weights are random, so the output is noise.";
      this._show("untrained", "info", "Untrained model", text);
    } else if (health?.model) this._hide("untrained");
    const advice = health?.capacity?.advice;
    if (advice) this._show("capacity", "warn", "Too slow for a live conversation", advice);
    else this._hide("capacity");
  }

  _onServerRecording({ on, name }) {
    if (on) this._show("replay", "warn", "The server is recording this conversation", `Saved there as ${name}.`);
    else this._hide("replay");
  }

  _onVad({ state, why }) {
    if (state !== "not_ready") {
      this._hide("vad");
      return;
    }
    const text =
      why === "missing"
        ? "Its files are not installed. Run “python -m web.vendor” on the server, then restart it."
        : "Its files could not be loaded in this browser.";
    this._show("vad", "warn", "Voice activity detection is not available", text);
  }

  _showProblem(key, why) {
    const { title, text } = PROBLEMS[why];
    this._show(key, "bad", title, text(location));
  }

  _showSuspended() {
    const { title, text } = PROBLEMS.audio_suspended;
    const box = this._show("suspended", "warn", title, text());
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Resume";
    button.addEventListener("click", this._resume);
    box.append(button);
  }

  _show(key, tone, title, text, durationMs) {
    const shown = this._shown.get(key);
    if (shown?.title === title && shown.text === text && durationMs === undefined) return shown.box;
    this._hide(key);
    const box = document.createElement("div");
    box.className = `notice ${tone}`;
    box.dataset.key = key;
    const strong = document.createElement("strong");
    strong.textContent = title;
    const body = document.createElement("span");
    body.textContent = text;
    box.append(strong, " ", body);
    this._root.append(box);
    const timer = durationMs === undefined ? null : setTimeout(() => this._hide(key), durationMs);
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
