/** One large control says what pressing it does; beside it stands in words what is going on. */

import { clock } from "../audio/recorder.js";
import { endingSentence, inSeconds, place } from "./messages.js";

const LABELS = Object.freeze({
  idle: "Start talking",
  opening: "Cancel",
  connecting: "Cancel",
  queued: "Leave the queue",
  live: "Stop",
  lost: "Stop",
  closing: "Stopping",
});
const RISE = 0.6; // of the way to a louder level in one frame
const FALL = 0.25;

export class Stage {
  constructor({ toggle, mute }) {
    this._section = document.getElementById("stage");
    this._talk = document.getElementById("talk");
    this._label = document.getElementById("talk-label");
    this._saying = document.getElementById("saying");
    this._elapsed = document.getElementById("elapsed");
    this._mute = document.getElementById("mute");
    this._levels = { user: 0, agent: 0 };
    this._sinceMs = null;
    this._talk.addEventListener("click", toggle);
    this._mute.addEventListener("click", mute);
    setInterval(() => this._count(), 1000);
    this._say("idle", "Press and talk. It listens while it speaks.");
  }

  heed(event, phase) {
    switch (event.kind) {
      case "heard":
        this._level("user", event.muted ? 0 : event.rms);
        return;
      case "played":
        this._level("agent", event.rms);
        return;
      case "opening":
        this._echo = event.echo;
        this._muted(false);
        this._say(phase, event.echo ? "Testing: you should hear yourself." : "Waiting for the microphone…");
        return;
      case "connecting":
        this._say(phase, event.resuming ? "Taking the conversation up again…" : "Connecting…");
        return;
      case "queued":
        this._say(phase, `${place(event.position)} A place opens when somebody leaves.`);
        return;
      case "ready":
      case "resumed":
        this._sinceMs ??= performance.now();
        this._say(phase, this._listening());
        return;
      case "lost":
        this._say(phase, `${endingSentence(event.why, event.message)} Trying again ${inSeconds(event.inMs)}.`);
        return;
      case "muted":
        this._muted(event.muted);
        if (phase === "live") this._say(phase, this._listening());
        return;
      case "closing":
        this._say(phase, "Saying goodbye…");
        return;
      case "failed":
        this._end(phase, "Press to try again.");
        return;
      case "ended":
        this._end(phase, event.why === "stopped" ? this._parting() : endingSentence(event.why, event.message));
        return;
      default:
    }
  }

  _listening() {
    return this._isMuted ? "You are muted." : "Listening. Just talk.";
  }

  _parting() {
    return this._echo ? "Did you hear yourself?" : "Press to talk again.";
  }

  _end(phase, sentence) {
    this._sinceMs = null;
    this._levels = { user: 0, agent: 0 };
    this._level("user", 0);
    this._level("agent", 0);
    this._muted(false);
    this._say(phase, sentence);
  }

  _say(phase, sentence) {
    this._section.dataset.phase = phase;
    this._label.textContent = LABELS[phase];
    this._talk.disabled = phase === "closing";
    this._mute.disabled = phase === "idle" || phase === "closing";
    this._saying.textContent = sentence;
    this._count();
  }

  _muted(muted) {
    this._isMuted = muted;
    this._mute.setAttribute("aria-pressed", String(muted));
    this._section.dataset.muted = String(muted);
  }

  _count() {
    this._elapsed.textContent = this._sinceMs === null ? "" : clock(performance.now() - this._sinceMs);
  }

  /** Rings follow the voices: quick to rise, slower to fall. */
  _level(who, rms) {
    const wanted = Math.min(1, Math.sqrt(rms) * 1.6);
    const level = this._levels[who];
    this._levels[who] = level + (wanted > level ? RISE : FALL) * (wanted - level);
    this._section.style.setProperty(`--${who}`, this._levels[who].toFixed(3));
  }
}
