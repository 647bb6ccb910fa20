/** Recording controls: the user starts and stops a recording, and saves or discards it; the transcript has buttons of its own. */

import { Recorder } from "../audio/recorder.js";
import { moveFocusFrom } from "../focus.js";
import { saveFile, timestamp } from "../save-file.js";
import { formatDuration } from "../units.js";

export class Recording {
  wantsAudio = true;

  /** `record(on)`: start or stop copying the audio. */
  constructor({ record }) {
    this._record = record;
    this._recorder = null;
    this._running = false;
    this._isSaved = false;
    this._button = document.getElementById("record");
    this._label = document.getElementById("record-label");
    this._time = document.getElementById("record-time");
    this._savePanel = document.getElementById("recording");
    this._summary = document.getElementById("recording-summary");
    this._onClick("save-wav", () => this._save());
    this._onClick("discard", () => {
      if (this._isSaved || confirm(`Discard the recording of ${this._duration}? It was not saved.`)) this._discard();
    });
  }

  onEvent(event) {
    if (event.kind === "captured") this._addAudio("user", event);
    else if (event.kind === "played") this._addAudio("agent", event);
    else if (event.kind === "ended" && this._running) this._stop();
  }

  /** Whether a recording is running, or was not saved. */
  get isUnsaved() {
    return this._running || (this._recorder !== null && !this._recorder.isEmpty && !this._isSaved);
  }

  /** The button was pressed; it is disabled where there is nothing to record. */
  toggle() {
    if (this._running) this._stop();
    else if (!this._button.disabled) this._start();
  }

  _onClick(id, action) {
    document.getElementById(id).addEventListener("click", action);
  }

  _start() {
    if (this.isUnsaved && !confirm(`Discard the recording of ${this._duration}? It was not saved.`)) return;
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
    this._label.textContent = this._running ? "Stop recording" : "Record";
    this._time.textContent = this._running ? "0:00" : "";
    document.documentElement.dataset.recording = String(this._running);
    const hasRecording = !this._running && this._recorder !== null && !this._recorder.isEmpty;
    this._savePanel.hidden = !hasRecording;
    if (!hasRecording) return;
    const why = this._recorder.isFull ? " This is the longest possible." : "";
    this._summary.textContent = `${this._duration} recorded, kept only in this page.${why}`;
  }

  get _duration() {
    return formatDuration(this._recorder.durationMs);
  }

  _save() {
    saveFile(this._recorder.wav(), `conversation-${timestamp()}.wav`);
    this._isSaved = true;
  }
}
