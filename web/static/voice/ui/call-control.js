/** The call button, the microphone buttons, the elapsed time, and one line of status with the time to the next attempt. */

import { moveFocusFrom } from "../focus.js";
import { describeState } from "../state.js";
import { formatDuration } from "../units.js";
import { closeMessage, formatDelay, pausedPosition, queuePosition } from "./call-messages.js";

const LABELS = Object.freeze({
  idle: "Start talking",
  opening: "Cancel",
  connecting: "Cancel",
  queued: "Leave queue",
  live: "Stop",
  paused: "Stop",
  lost: "Give up",
  closing: "Stopping…",
});
const ATTACK = 0.6; // share of the way to a louder level per frame
const RELEASE = 0.25;

function openingMessage({ echo, microphone }) {
  if (echo) return "Audio test: you should hear yourself.";
  return microphone ? "Waiting for the microphone…" : "Connecting without the microphone…";
}

export class CallControl {
  wantsAudio = true;

  /** `hold(held)`: the push-to-talk button; `openMicrophone()`: turn it on in a call that has none; `tryNow()`: reconnect. */
  constructor(preferences, { toggle, mute, hold, openMicrophone, tryNow }) {
    const get = (id) => document.getElementById(id);
    this._preferences = preferences;
    this._root = get("call");
    this._talk = get("talk");
    this._label = get("talk-label");
    this._status = get("call-status");
    this._retry = get("retry"); // outside of the status, which is announced whenever it changes
    this._tryNow = get("try-now");
    this._elapsed = get("elapsed");
    this._mute = get("mute");
    this._muteLabel = get("mute-label");
    this._hold = get("hold");
    this._record = get("record");
    this._levels = { user: 0, agent: 0 };
    this._startedMs = null;
    this._retryMs = null; // when the next attempt to reconnect is due
    this._mayTryNow = false;
    this._facts = { phase: "idle", health: undefined };
    this._outcome = ""; // why the last call ended
    this._talk.addEventListener("click", toggle);
    this._mute.addEventListener("click", () => (this._facts.withoutMicrophone ? openMicrophone() : mute()));
    this._tryNow.addEventListener("click", tryNow);
    this._listenToHold(hold);
    setInterval(() => this._updateTimes(), 1000);
    this._render();
  }

  onEvent(event, phase, facts) {
    this._facts = facts;
    // Turns of the conversation are seen, not announced: the agent is speaking.
    if (event.kind !== "captured" && event.kind !== "played") {
      this._status.setAttribute("aria-live", event.kind === "answering" ? "off" : "polite");
    }
    switch (event.kind) {
      case "captured":
      case "played":
        if (phase === "idle" || phase === "closing") return;
        this._showLevel(event.kind === "captured" ? "user" : "agent", event.muted ? 0 : event.rms);
        return;
      case "opening":
        this._isAudioTest = event.echo;
        this._isSample = event.isSample;
        this._outcome = "";
        this._message = openingMessage(event);
        break;
      case "connecting":
        this._retryMs = null;
        this._message = this._startedMs === null ? "Connecting…" : "Reconnecting…";
        break;
      case "queued":
        this._message = queuePosition(event.position);
        break;
      case "paused":
        this._message = pausedPosition(event.position);
        break;
      case "continued":
      case "ready":
      case "resumed":
        this._startedMs ??= performance.now();
        break;
      case "lost":
        this._retryMs = performance.now() + event.inMs;
        this._mayTryNow = !event.retryAfterMs; // a server that says when is not asked before
        this._message = closeMessage(event.why, event.message);
        break;
      case "closing":
        this._retryMs = null;
        this._message = "Ending the conversation…";
        break;
      case "failed":
        this._end("Press to try again.");
        break;
      case "ended":
        this._end(event.why === "stopped" ? this._endStatus() : closeMessage(event.why, event.message));
        break;
      default:
    }
    this._render();
  }

  _endStatus() {
    if (this._isSample) return "";
    return this._isAudioTest ? "Did you hear yourself?" : "Press to start again.";
  }

  _end(outcome) {
    this._startedMs = null;
    this._retryMs = null;
    this._outcome = outcome;
    this._levels = { user: 0, agent: 0 };
    this._showLevel("user", 0);
    this._showLevel("agent", 0);
  }

  _render() {
    const { phase, muted, isSample } = this._facts;
    const withoutMicrophone = this._facts.withoutMicrophone && !isSample;
    const { message, server } = describeState(this._facts);
    this._root.dataset.phase = phase;
    this._root.dataset.muted = String(Boolean(muted));
    this._setText(this._label, LABELS[phase] ?? "Stop");
    this._talk.setAttribute("aria-disabled", String(phase === "closing")); // a disabled button would lose the focus
    const isLive = phase === "live" && !isSample;
    this._record.disabled = !isLive && phase !== "idle" && !this._facts.recording;
    this._mute.disabled = !isLive;
    const isMuted = Boolean(muted) && isLive;
    this._mute.dataset.on = String(isMuted);
    const muteLabel = isMuted ? "Unmute" : "Mute";
    this._setText(this._muteLabel, withoutMicrophone && isLive ? "Turn on mic" : muteLabel);
    this._mute.setAttribute("aria-label", withoutMicrophone && isLive ? "Turn on microphone" : muteLabel);
    this._mute.classList.toggle("long", withoutMicrophone && isLive);
    this._mute.hidden = this._isPushToTalk && !(withoutMicrophone && isLive);
    this._hold.hidden = !this._isPushToTalk || (withoutMicrophone && isLive);
    this._hold.disabled = !isLive;
    this._hold.setAttribute("aria-pressed", String(isLive && !muted));
    const outcome = phase === "idle" && server.state === "ready" ? this._outcome : "";
    this._setText(this._status, outcome || [phase === "idle" ? this._reason : "", message ?? this._message].filter(Boolean).join(" "));
    this._showTryNow(phase);
    this._updateTimes();
  }

  /** It stays while it tries: pressed twice, it must not have become another button. */
  _showTryNow(phase) {
    const isReconnecting = phase === "lost" || (phase === "connecting" && this._startedMs !== null);
    const isHidden = !isReconnecting || !this._mayTryNow;
    if (isHidden) moveFocusFrom(this._tryNow, this._talk);
    this._tryNow.hidden = isHidden;
    this._tryNow.setAttribute("aria-disabled", String(phase !== "lost"));
  }

  /** Why the last call ended, where the server's state is worth telling as well. */
  get _reason() {
    return this._outcome.startsWith("Press") ? "" : this._outcome;
  }

  get _isPushToTalk() {
    return this._preferences.talkMode === "push";
  }

  _setText(element, text) {
    if (element.textContent !== text) element.textContent = text; // announced only when it changes
  }

  /** Hold with a pointer, or with Space or Enter while it has the focus. */
  _listenToHold(hold) {
    this._hold.addEventListener("pointerdown", (event) => {
      this._hold.setPointerCapture(event.pointerId);
      hold(true);
    });
    for (const name of ["pointerup", "pointercancel", "blur"]) this._hold.addEventListener(name, () => hold(false));
    this._hold.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press on a phone
    this._hold.addEventListener("keydown", (event) => {
      if (event.key === " " || event.key === "Enter") hold(true);
    });
    this._hold.addEventListener("keyup", () => hold(false));
  }

  _updateTimes() {
    const nowMs = performance.now();
    this._setText(this._elapsed, this._startedMs === null ? "" : formatDuration(nowMs - this._startedMs));
    this._setText(this._retry, this._retryMs === null ? "" : `Trying again ${formatDelay(this._retryMs - nowMs)}.`);
  }

  /** Set the size of a ring from a level, smoothed: fast attack, slow release. */
  _showLevel(who, rms) {
    const target = Math.min(1, Math.sqrt(rms) * 1.6);
    const level = this._levels[who];
    this._levels[who] = level + (target > level ? ATTACK : RELEASE) * (target - level);
    this._root.style.setProperty(`--${who}`, this._levels[who].toFixed(3));
  }
}
