/** The audio card: start and stop the microphone, choose or drop a file, progress, cancel. */

import { decibels } from "../../voice/audio/envelope.js";
import { formatDuration } from "../data/format.js";

const HINT = "or drop a file here: any audio or video that this browser can play";

export class AudioCard {
  constructor({ startMicrophone, stopMicrophone, cancel, transcribe }) {
    const get = (id) => document.getElementById(id);
    this._microphone = get("microphone");
    this._microphoneLabel = get("microphone-label");
    this._file = get("file");
    this._status = get("job-status");
    this._progress = get("job-progress");
    this._level = get("level");
    this._cancel = get("cancel");
    this._hint = get("drop-hint");
    this._phase = "idle";
    this._isCached = false;
    this._durationS = 0;
    this._microphone.addEventListener("click", () => {
      if (this._phase === "listening") stopMicrophone();
      else startMicrophone();
    });
    this._cancel.addEventListener("click", cancel);
    this._file.addEventListener("change", () => {
      const [file] = this._file.files;
      this._file.value = ""; // so that the same file can be chosen again
      if (file !== undefined) transcribe(file);
    });
    this._acceptDrops(get("drop"), transcribe);
  }

  onEvent(event, phase) {
    this._phase = phase;
    switch (event.kind) {
      case "cache_checked":
        this._isCached = event.complete;
        break;
      case "decoding":
        this._setStatus(`Reading ${event.name}…`);
        this._setProgress(null);
        break;
      case "transcribing":
        this._durationS = event.durationS;
        this._setStatus(`Transcribing ${event.name} (${formatDuration(event.durationS)})…`);
        this._setProgress(0);
        break;
      case "segment":
        if (phase === "transcribing") this._setProgress(event.segment.end / this._durationS);
        break;
      case "opening":
        this._setStatus("Opening the microphone…");
        break;
      case "captured":
        this._showLevel(event);
        break;
      case "finishing":
        this._setStatus("Finishing…");
        break;
      case "done":
      case "cancelled":
      case "failed":
        this._setStatus(event.kind === "cancelled" ? "Cancelled." : "");
        break;
      default:
    }
    this._render(phase);
  }

  _showLevel({ seconds, rms }) {
    this._level.value = decibels(rms);
    this._setStatus(`Listening, ${formatDuration(seconds)}`);
  }

  _render(phase) {
    const isEnabled = phase === "ready" || (phase === "idle" && this._isCached);
    this._microphone.disabled = !(isEnabled || phase === "listening");
    this._microphone.setAttribute("aria-pressed", String(phase === "listening"));
    this._microphoneLabel.textContent = phase === "listening" ? "Stop listening" : "Use microphone";
    this._file.disabled = !isEnabled;
    this._hint.textContent = isEnabled || phase !== "idle" ? HINT : "Download the model first.";
    this._level.hidden = phase !== "listening";
    this._cancel.hidden = !["decoding", "transcribing", "finishing", "opening"].includes(phase);
    if (phase !== "transcribing" && phase !== "decoding") this._progress.hidden = true;
  }

  _setStatus(text) {
    if (this._status.textContent !== text) this._status.textContent = text;
  }

  /** `share`: 0 to 1, or null while it is unknown. */
  _setProgress(share) {
    this._progress.hidden = false;
    if (share === null) this._progress.removeAttribute("value");
    else this._progress.value = Math.min(1, share);
  }

  _acceptDrops(target, transcribe) {
    const setOver = (event, isOver) => {
      event.preventDefault();
      target.dataset.over = String(isOver && !this._file.disabled);
    };
    target.addEventListener("dragover", (event) => setOver(event, true));
    target.addEventListener("dragleave", (event) => setOver(event, false));
    target.addEventListener("drop", (event) => {
      setOver(event, false);
      const [file] = event.dataTransfer.files;
      if (file !== undefined && !this._file.disabled) transcribe(file);
    });
  }
}
