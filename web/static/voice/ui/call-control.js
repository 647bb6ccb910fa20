/** The call button, the microphone buttons, the elapsed time, and one line of status with the time to the next attempt. */

import { moveFocusFrom } from "../focus.js";
import { Listener } from "../listener.js";
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
const OVER = new Set(["idle", "closing"]); // reports of the last frames may still arrive
const ATTACK = 0.6; // share of the way to a louder level per frame
const RELEASE = 0.25;

function openingMessage({ echo, microphone }) {
  if (echo) return "Audio test: you should hear yourself.";
  return microphone ? "Waiting for the microphone…" : "Connecting without the microphone…";
}

export class CallControl extends Listener {
  /** `hold(held)`: the push-to-talk button; `openMicrophone()`: turn it on in a call that has none; `tryNow()`: reconnect. */
  constructor({ toggle, mute, hold, openMicrophone, tryNow }) {
    super();
    const get = (id) => document.getElementById(id);
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
    this._message = "";
    this._outcome = ""; // why the last call ended
    this._wasHeard = false; // whether the microphone was anything but silent in this call
    this._talk.addEventListener("click", toggle);
    this._mute.addEventListener("click", () => (this._isMissing ? openMicrophone() : mute()));
    this._tryNow.addEventListener("click", tryNow);
    this._listenToHold(hold);
    setInterval(() => this._updateTimes(), 1000);
  }

  on_captured({ rms, muted }, phase) {
    this._wasHeard ||= rms > 0;
    if (!OVER.has(phase)) this._showLevel("user", muted ? 0 : rms);
  }

  on_played({ rms }, phase) {
    if (!OVER.has(phase)) this._showLevel("agent", rms);
  }

  on_opening(event) {
    this._isAudioTest = event.echo;
    this._isSample = event.isSample;
    this._outcome = "";
    this._wasHeard = false;
    this._message = openingMessage(event);
  }

  on_connecting() {
    this._retryMs = null;
    this._message = this._startedMs === null ? "Connecting…" : "Reconnecting…";
  }

  on_queued({ position }) {
    this._message = queuePosition(position);
  }

  on_paused({ position }) {
    this._message = pausedPosition(position);
  }

  on_ready() {
    this._startedMs ??= performance.now();
  }

  on_continued() {
    this.on_ready();
  }

  on_resumed() {
    this.on_ready(); // it may have begun while there was no connection
  }

  on_lost({ why, message, inMs, retryAfterMs }) {
    this._retryMs = performance.now() + inMs;
    this._mayTryNow = !retryAfterMs; // a server that says when is not asked before
    this._message = closeMessage(why, message);
  }

  on_closing() {
    this._retryMs = null;
    this._message = "Ending the conversation…";
  }

  on_failed() {
    this._end("Press to try again.");
  }

  on_ended({ why, message }) {
    this._end(why === "stopped" ? this._endStatus() : closeMessage(why, message));
  }

  _endStatus() {
    if (this._isSample) return "";
    if (!this._isAudioTest) return "Press to start again.";
    return this._wasHeard ? "Did you hear yourself?" : "Your microphone is silent: see Troubleshooting.";
  }

  _end(outcome) {
    this._startedMs = null;
    this._retryMs = null;
    this._outcome = outcome;
    this._levels = { user: 0, agent: 0 };
    this._showLevel("user", 0);
    this._showLevel("agent", 0);
  }

  onState(state, facts, event) {
    if (event?.kind !== "answering") this._showButtons(facts);
    // Turns of the conversation are seen, not announced: the agent is speaking.
    this._status.setAttribute("aria-live", event?.kind === "answering" ? "off" : "polite");
    this._showStatus(state);
  }

  _showButtons({ phase, muted, pushToTalk, recording, isSample, withoutMicrophone, isReconnecting }) {
    this._root.dataset.phase = phase;
    this._root.dataset.muted = String(muted);
    this._setText(this._label, LABELS[phase]);
    this._talk.setAttribute("aria-disabled", String(phase === "closing")); // a disabled button would lose the focus
    const isLive = phase === "live" && !isSample;
    this._record.disabled = !isLive && phase !== "idle" && !recording;
    this._showMute({ isLive, isMuted: muted && isLive, pushToTalk, isMissing: withoutMicrophone && isLive });
    this._hold.disabled = !isLive;
    this._hold.setAttribute("aria-pressed", String(isLive && !muted));
    this._showTryNow(phase, isReconnecting);
    this._updateTimes();
  }

  /** One of two buttons; `isMissing`: the call has no microphone. */
  _showMute({ isLive, isMuted, pushToTalk, isMissing }) {
    this._isMissing = isMissing;
    this._mute.disabled = !isLive;
    this._mute.dataset.on = String(isMuted);
    const label = isMuted ? "Unmute" : "Mute";
    this._setText(this._muteLabel, isMissing ? "Turn on mic" : label);
    this._mute.setAttribute("aria-label", isMissing ? "Turn on microphone" : label);
    this._mute.classList.toggle("long", isMissing);
    this._mute.hidden = pushToTalk && !isMissing;
    this._hold.hidden = !pushToTalk || isMissing;
  }

  /** Why the last call ended is all there is to say, or comes before the server's state if that is no good. */
  _showStatus({ message, server }) {
    const reason = server.state !== "ready" && this._outcome.startsWith("Press") ? "" : this._outcome;
    const isAll = reason !== "" && server.state === "ready";
    this._setText(this._status, isAll ? reason : `${reason} ${message ?? this._message}`.trim());
  }

  /** It stays while it tries: pressed twice, it must not have become another button. */
  _showTryNow(phase, isReconnecting) {
    const isHidden = phase !== "lost" || !this._mayTryNow;
    if (isHidden) moveFocusFrom(this._tryNow, this._talk);
    this._tryNow.hidden = isHidden;
    this._tryNow.setAttribute("aria-disabled", String(isReconnecting));
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
