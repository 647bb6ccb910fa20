/** The call button, the mute button, the elapsed time, and one line of status. */

import { formatDuration } from "../audio/recorder.js";
import { closeMessage, formatRetryDelay, pausedPosition, queuePosition } from "./messages.js";

const LABELS = Object.freeze({
  idle: "Start talking",
  opening: "Cancel",
  connecting: "Cancel",
  queued: "Leave queue",
  live: "Stop",
  paused: "Stop",
  lost: "Stop",
  closing: "Stopping…",
});
const ATTACK = 0.6; // share of the way to a louder level per frame
const RELEASE = 0.25;

export class CallControl {
  constructor({ toggle, mute }) {
    this._root = document.getElementById("call");
    this._talk = document.getElementById("talk");
    this._label = document.getElementById("talk-label");
    this._status = document.getElementById("call-status");
    this._elapsed = document.getElementById("elapsed");
    this._mute = document.getElementById("mute");
    this._levels = { user: 0, agent: 0 };
    this._startedMs = null;
    this._talk.addEventListener("click", toggle);
    this._mute.addEventListener("click", mute);
    setInterval(() => this._updateElapsed(), 1000);
    this._setStatus("idle", "Press to start. The agent listens while it speaks.");
  }

  onEvent(event, phase) {
    switch (event.kind) {
      case "captured":
        this._showLevel("user", event.muted ? 0 : event.rms);
        return;
      case "played":
        this._showLevel("agent", event.rms);
        return;
      case "opening":
        this._isAudioTest = event.echo;
        this._showMuted(false);
        this._setStatus(phase, event.echo ? "Audio test: you should hear yourself." : "Waiting for the microphone…");
        return;
      case "connecting":
        this._setStatus(phase, event.resuming ? "Reconnecting…" : "Connecting…");
        return;
      case "queued":
        this._setStatus(phase, queuePosition(event.position));
        return;
      case "paused":
        this._setStatus(phase, pausedPosition(event.position));
        return;
      case "continued":
      case "ready":
      case "resumed":
        this._startedMs ??= performance.now();
        this._setStatus(phase, this._liveStatus());
        return;
      case "lost": {
        const reason = closeMessage(event.why, event.message);
        this._setStatus(phase, `${reason} Reconnecting ${formatRetryDelay(event.inMs)}.`);
        return;
      }
      case "muted":
        this._showMuted(event.muted);
        if (phase === "live") this._setStatus(phase, this._liveStatus());
        return;
      case "closing":
        this._setStatus(phase, "Ending the conversation…");
        return;
      case "failed":
        this._end(phase, "Press to try again.");
        return;
      case "ended":
        this._end(phase, event.why === "stopped" ? this._endStatus() : closeMessage(event.why, event.message));
        return;
      default:
    }
  }

  _liveStatus() {
    return this._isMuted ? "You are muted." : "Listening. Just talk.";
  }

  _endStatus() {
    return this._isAudioTest ? "Did you hear yourself?" : "Press to start again.";
  }

  _end(phase, status) {
    this._startedMs = null;
    this._levels = { user: 0, agent: 0 };
    this._showLevel("user", 0);
    this._showLevel("agent", 0);
    this._showMuted(false);
    this._setStatus(phase, status);
  }

  _setStatus(phase, status) {
    this._root.dataset.phase = phase;
    this._label.textContent = LABELS[phase];
    this._talk.disabled = phase === "closing";
    this._mute.disabled = phase === "idle" || phase === "closing";
    this._status.textContent = status;
    this._updateElapsed();
  }

  _showMuted(muted) {
    this._isMuted = muted;
    this._mute.setAttribute("aria-pressed", String(muted));
    this._root.dataset.muted = String(muted);
  }

  _updateElapsed() {
    this._elapsed.textContent = this._startedMs === null ? "" : formatDuration(performance.now() - this._startedMs);
  }

  /** Set the size of a ring from a level, smoothed: fast attack, slow release. */
  _showLevel(who, rms) {
    const target = Math.min(1, Math.sqrt(rms) * 1.6);
    const level = this._levels[who];
    this._levels[who] = level + (target > level ? ATTACK : RELEASE) * (target - level);
    this._root.style.setProperty(`--${who}`, this._levels[who].toFixed(3));
  }
}
