/**
 * Recording controls: the user starts and stops a recording, and saves or discards it. Started before a conversation,
 * it begins with the first word. The transcript has buttons of its own.
 */

import { Recorder } from "../audio/recorder.js";
import { moveFocusFrom } from "../focus.js";
import { saveFile, timestamp } from "../save-file.js";
import { formatDuration } from "../units.js";

export class Recording {
  /** `record(on)`: start or stop copying the audio. */
  constructor({ record }) {
    this._record = record;
    this._recorder = null;
    this._running = false;
    this._isArmed = false; // it starts with the next conversation
    this._phase = "idle";
    this._isSaved = false;
    this._button = document.getElementById("record");
    this._label = document.getElementById("record-label");
    this._time = document.getElementById("record-time");
    this._savePanel = document.getElementById("recording");
    this._summary = document.getElementById("recording-summary");
    this._onClick("save-wav", () => this._save());
    this._onClick("discard", () => {
      if (this._mayReplace()) this._discard();
    });
  }

  onEvent(event, phase, facts) {
    this._phase = phase;
    if (event.kind === "opening") this._isAudioTest = event.echo;
    if (event.kind === "ready" && this._isArmed && !this._isAudioTest && !facts.isSample) this._start();
    if (event.kind === "captured") this._addAudio("user", event);
    else if (event.kind === "played") this._addAudio("agent", event);
    else if (event.kind === "ended" && this._running) this._stop();
  }

  /** Whether a recording is running, or was not saved. */
  get isUnsaved() {
    return this._running || (this._recorder !== null && !this._recorder.isEmpty && !this._isSaved);
  }

  /** The button was pressed. */
  toggle() {
    if (this._running) this._stop();
    else if (this._isArmed) this._arm(false);
    else if (!this._mayReplace()) return;
    else if (this._phase === "live") this._start();
    else this._arm(true);
  }

  _onClick(id, action) {
    document.getElementById(id).addEventListener("click", action);
  }

  _mayReplace() {
    return !this.isUnsaved || confirm(`Discard the recording of ${this._duration}? It was not saved.`);
  }

  _arm(isArmed) {
    this._isArmed = isArmed;
    this._discard();
  }

  _start() {
    this._isArmed = false;
    this._discard();
    this._recorder = new Recorder();
    this._isSaved = false;
    this._running = true;
    this._record(true);
    this._show();
  }

  _stop() {
    this._running = false;
    this._record(false);
    this._show();
  }

  _discard() {
    moveFocusFrom(this._savePanel, this._button, document.getElementById("talk"));
    this._recorder = null;
    this._show();
  }

  _addAudio(who, { samples, firstMs }) {
    if (!this._running || samples === undefined) return;
    this._recorder[who](samples, firstMs);
    this._time.textContent = formatDuration(this._recorder.durationMs);
    if (this._recorder.isFull) this._stop();
  }

  _show() {
    this._button.dataset.on = String(this._running);
    this._button.dataset.armed = String(this._isArmed);
    this._label.textContent = this._name;
    this._time.textContent = this._running ? "0:00" : "";
    document.documentElement.dataset.recording = String(this._running);
    const hasRecording = !this._running && this._recorder !== null && !this._recorder.isEmpty;
    this._savePanel.hidden = !hasRecording;
    if (!hasRecording) return;
    const why = this._recorder.isFull ? " This is the longest possible." : "";
    const where = this._isSaved ? "saved as a file" : "kept only in this page";
    this._summary.textContent = `${this._duration} recorded, ${where}.${why}`;
  }

  get _name() {
    if (this._running) return "Stop recording";
    return this._isArmed ? "Will record" : "Record";
  }

  get _duration() {
    return formatDuration(this._recorder.durationMs);
  }

  _save() {
    saveFile(this._recorder.wav(), `conversation-${timestamp()}.wav`);
    this._isSaved = true;
    this._show();
  }
}
