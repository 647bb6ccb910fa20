/**
 * Notices: problems and conditions the user should know about, until they are over or the user closes them.
 *
 * They have a place of their own and move nothing else. One notice per topic, by key; `tone` is info, warn or bad.
 * Each has a button that opens the help where it says more.
 * Neighbours: messages.js has the words, help-dialog.js the longer advice; noteworthy.js knows when this view is needed.
 */

import { INAUDIBLE_DB, QUIET_DB, conditionOf } from "../diagnostics/condition.js";
import { moveFocusFrom } from "../focus.js";
import {
  CONDITIONS,
  PROBLEMS,
  REFUSALS,
  adviceHere,
  captionsProblem,
  droppedMessage,
  errorMessage,
  refusalMessage,
} from "./messages.js";
import { MIN_DROPPED_FRAMES } from "./noteworthy.js";

const BRIEF_MS = 6000;
const ERROR_MS = 12_000;
const DROPPED_MS = 10_000;
const SPEED = new Set(["server_slow", "device_slow", "gaps"]);
const SLOWNESS = new Set(["server_slow", "device_slow"]);
const HELP_BY_KEY = Object.freeze({ loading: "server" });

export class Notices {
  /** `resume()`: resume audio; `help(topic)`: open the help; `facts()`: what diagnose() gets. */
  constructor({ resume, help, facts }) {
    this._root = document.getElementById("notices");
    this._resume = resume;
    this._help = help;
    this._facts = facts;
    this._shown = new Map(); // by key
    this._closed = new Map(); // by key: the title of the notice that the user closed
    this._unsentFrames = 0; // as the user knows
    this._dropped = []; // {atMs, what, count}: of the last seconds
    if (!globalThis.isSecureContext) this._showProblem("audio", "insecure_context");
    else if (globalThis.AudioWorkletNode === undefined) this._showProblem("audio", "no_audio_worklet");
  }

  onEvent(event, phase) {
    switch (event.kind) {
      case "health":
        this._onHealth(event.health, phase);
        return;
      case "token_refused":
        this._showRefusal("token", event);
        return;
      case "opening":
        for (const key of ["audio", "server", "refusal", "output"]) this._hide(key);
        this._closed.clear();
        this._unsentFrames = 0;
        this._dropped = [];
        return;
      case "not_loaded":
        this._showProblem("loading", "not_loaded");
        return;
      case "loaded":
        this._hide("loading");
        return;
      case "failed":
        this._showProblem(event.why === "not_loaded" ? "loading" : "audio", event.why);
        return;
      case "audio_failed":
        this._showProblem("audio", event.why);
        return;
      case "microphone_opened":
        this._hide("audio");
        return;
      case "microphone_changed":
        this._hide("audio");
        this._onMicrophoneChanged(event);
        return;
      case "output_missing":
        this._show("output", "warn", PROBLEMS.output_missing.title, PROBLEMS.output_missing.text(), {
          help: "speaker",
          durationMs: BRIEF_MS,
        });
        return;
      case "output_found":
        this._hide("output");
        return;
      case "audio_state":
        if (event.state === "suspended" || event.state === "interrupted") this._showSuspended();
        else this._hide("suspended");
        return;
      case "error":
        if (event.code === "not_resumed") return; // the transcript shows that a new conversation started
        if (event.code === "prompt_refused") return; // shown with the voice and the role
        this._show("server", "warn", "Server error", errorMessage(event), { help: "server", durationMs: ERROR_MS });
        return;
      case "recording":
        this._onServerRecording(event);
        return;
      case "draining":
        this._show("server", "warn", "The server is shutting down", "The conversation ends after this utterance.", {
          help: "server",
        });
        return;
      case "dropped":
        this._onDropped(event);
        return;
      case "vad":
        this._onVad(event);
        return;
      case "captions":
        this._onCaptions(event);
        return;
      case "connection_stats":
        this._onUnsent(event.droppedFrames);
        this._onConditions();
        return;
      case "lost": // the call status shows why, and when the page reconnects
        for (const key of ["server", "condition"]) this._hide(key);
        if (event.why in REFUSALS) this._showRefusal("refusal", event);
        return;
      case "ready":
      case "resumed":
        for (const key of ["server", "suspended", "refusal", "condition"]) this._hide(key);
        return;
      case "ended":
        for (const key of ["server", "suspended", "refusal", "condition", "dropped", "replay", "output"]) {
          this._hide(key);
        }
        if (event.why in REFUSALS) this._showRefusal("refusal", event);
        return;
      default:
    }
  }

  _onHealth(health, phase) {
    if (health?.status === "unauthorized") this._showRefusal("health", { why: "unauthorized" });
    else if (health?.status === "refused") {
      this._showRefusal("health", { ...health, why: health.code });
    } else if (health === null && phase !== "live") {
      const text = "Is it still running? The page keeps trying.";
      this._show("health", "bad", "Cannot reach the server", text, { help: "server" });
    } else if (health?.status === "not_ready") {
      const text = "You can start as soon as they are loaded.";
      this._show("health", "info", "Loading models", text, { help: "server" });
    } else this._hide("health");
    if (health?.status === "ready") this._hide("token");
    if (health?.model?.trained === false) {
      const text = "Its weights are random, so the output is noise.";
      this._show("untrained", "info", "Untrained model", text, { help: "model" });
    } else if (health?.model) this._hide("untrained");
    const advice = health?.capacity?.advice ? adviceHere(health.capacity.advice, location) : null;
    if (advice) {
      this._show("capacity", "warn", "Too slow for a live conversation", advice, { help: "speed" });
      this._hide("dropped");
    } else this._hide("capacity");
  }

  /** Once a second: frames that the network was too slow for, in this call so far. */
  _onUnsent(frames) {
    const count = frames - this._unsentFrames;
    if (!(count > 0)) return;
    this._unsentFrames = frames;
    this._onDropped({ what: "unsent", count });
  }

  /**
   * One notice with what was lost lately. Nothing is lost with silence, and a machine that is too slow has a notice with
   * more to say; the statistics count it all.
   */
  _onDropped(event) {
    const { muted, inputDb, outputDb } = this._facts();
    const isOwn = event.what === "audio" || event.what === "unsent";
    if (isOwn ? muted || inputDb === null || inputDb < QUIET_DB : outputDb === null || outputDb < INAUDIBLE_DB) return;
    const nowMs = performance.now();
    this._dropped = [...this._dropped.filter(({ atMs }) => nowMs - atMs < DROPPED_MS), { ...event, atMs: nowMs }];
    const same = this._dropped.filter(({ what }) => what === event.what);
    const count = same.reduce((sum, one) => sum + one.count, 0);
    if (count < MIN_DROPPED_FRAMES || this._isSlownessTold) return;
    const text = droppedMessage({ what: event.what, count }, location);
    this._show("dropped", "warn", "Audio dropped", text, { durationMs: BRIEF_MS, help: "speed" });
  }

  get _isSlownessTold() {
    return this._shown.has("capacity") || SLOWNESS.has(this._shown.get("condition")?.condition);
  }

  /** Once a second during a call: what is wrong at the moment, with its remedy. */
  _onConditions() {
    const facts = this._facts();
    const condition = conditionOf(facts);
    // The same, in other words.
    const isTold =
      (condition === "gaps" && this._shown.has("dropped")) || (SPEED.has(condition) && this._shown.has("capacity"));
    if (condition === null || isTold) {
      this._hide("condition");
      this._closed.delete("condition");
      return;
    }
    const { tone, title, text, help } = CONDITIONS[condition];
    // Figures change every second; the words stay as they were until the condition changes.
    if (this._shown.get("condition")?.title === title) return;
    this._show("condition", tone, title, text(facts, location), { help: SPEED.has(condition) ? "speed" : help, condition });
    if (SLOWNESS.has(condition)) this._hide("dropped");
  }

  _onMicrophoneChanged({ label, why }) {
    const cause = why === "lost" ? "The other one was disconnected." : "The selected one is not connected.";
    const options = { help: "microphone", durationMs: BRIEF_MS };
    this._show("microphone", "info", `Using ${label || "another microphone"}`, cause, options);
  }

  _onServerRecording({ on, name }) {
    const title = "The server is recording this conversation";
    if (on) this._show("replay", "warn", title, `Saved there as ${name}.`, { help: "privacy" });
    else this._hide("replay");
  }

  _onVad({ state, why }) {
    if (state !== "not_ready") {
      this._hide("vad");
      return;
    }
    const text =
      why === "missing"
        ? "Its files are not installed. Run “python -m web.vendor” on the server, then restart it. Until then, the level decides."
        : "Its files could not be loaded in this browser. The level decides instead.";
    this._show("vad", "warn", "The speech detection model is not available", text, { help: "interruptions" });
  }

  _onCaptions({ state, why, message }) {
    if (state === "not_ready") {
      const text = captionsProblem({ why, message }, location);
      this._show("captions", "warn", "Your words are not shown", text, { help: "captions" });
    } else if (state === "behind") {
      const text = "Whisper cannot keep up. A smaller model is faster; choose one in Settings.";
      const options = { help: "captions", durationMs: BRIEF_MS };
      this._show("captions", "warn", "Some of your words are missing", text, options);
    } else this._hide("captions");
  }

  _showProblem(key, why) {
    const { title, text } = PROBLEMS[why];
    this._show(key, "bad", title, text(location), { help: HELP_BY_KEY[key] ?? "microphone" });
  }

  _showRefusal(key, refusal) {
    const { title, text } = refusalMessage(refusal, location);
    const tone = refusal.why === "full" || refusal.why === "draining" ? "warn" : "bad";
    this._show(key, tone, title, text, { help: "server" });
  }

  _showSuspended() {
    const { title, text } = PROBLEMS.audio_suspended;
    const action = { label: "Resume", run: this._resume };
    this._show("suspended", "warn", title, text(), { help: "speaker", action });
  }

  _show(key, tone, title, text, { help, durationMs, action, condition }) {
    const shown = this._shown.get(key);
    if (shown?.title === title && shown.text === text && durationMs === undefined) return;
    if (this._closed.get(key) === title) return; // the user has read it
    if (shown?.title === title && action === undefined) {
      this._update(shown, key, text, durationMs);
      return;
    }
    this._hide(key);
    const box = document.createElement("div");
    box.className = `notice ${tone}`;
    box.dataset.key = key;
    const words = document.createElement("p");
    const strong = document.createElement("strong");
    strong.textContent = /[.!?:]$/.test(title) ? title : `${title}.`;
    const body = document.createElement("span");
    body.textContent = text;
    words.append(strong, " ", body);
    box.append(words);
    if (action !== undefined) box.append(button(action.label, action.run));
    box.append(button("Help", () => this._help(help), `Help: ${title}`));
    const close = button("✕", () => {
      this._closed.set(key, title);
      this._hide(key);
    }, `Close: ${title}`);
    close.className = "close";
    box.append(close);
    this._root.append(box);
    const timer = this._timer(key, durationMs);
    this._shown.set(key, { box, body, title, text, timer, condition });
  }

  /** The same notice with other words, in its place. */
  _update(shown, key, text, durationMs) {
    clearTimeout(shown.timer);
    if (shown.text !== text) shown.body.textContent = text;
    Object.assign(shown, { text, timer: this._timer(key, durationMs) });
  }

  _timer(key, durationMs) {
    return durationMs === undefined ? null : setTimeout(() => this._hide(key), durationMs);
  }

  _hide(key) {
    const shown = this._shown.get(key);
    if (shown === undefined) return;
    clearTimeout(shown.timer);
    const next = shown.box.nextElementSibling ?? shown.box.previousElementSibling;
    if (next !== null && shown.box.nextElementSibling === null) this._root.append(next); // a small window shows only the last
    moveFocusFrom(shown.box, next?.querySelector(".close"), document.getElementById("talk"));
    shown.box.remove();
    this._shown.delete(key);
  }
}

function button(label, run, name) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  if (name !== undefined) made.setAttribute("aria-label", name);
  made.addEventListener("click", run);
  return made;
}
