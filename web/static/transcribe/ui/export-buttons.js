/** The export buttons: copy the transcript, or download it in one of the formats. */

import { copyText, saveFile, timestamp } from "../../voice/save-file.js";
import { FORMATS } from "../data/exports.js";

const STATUS_MS = 4000;

export class ExportButtons {
  /** `result()`: the transcript to export, `{ segments, info }`. */
  constructor({ result }) {
    this._result = result;
    this._name = "transcript";
    this._savedSegments = 0; // of the transcript that was saved or copied last
    this._isLive = false; // from the microphone: it cannot be transcribed again
    this._status = document.getElementById("exports-status");
    this._copyButton = document.getElementById("copy-transcript");
    this._copyButton.addEventListener("click", () => this._copy());
    const formats = [...document.querySelectorAll("#exports [data-format]")];
    for (const button of formats) button.addEventListener("click", () => this._save(button.dataset.format));
    this._buttons = [this._copyButton, ...formats];
  }

  /** Whether the transcript contains something that was neither copied nor saved. */
  get isUnsaved() {
    return this._result().segments.length > this._savedSegments;
  }

  /** Ask before a transcript that exists nowhere else is replaced. → whether it may be. */
  mayReplace() {
    if (!this._isLive || !this.isUnsaved) return true;
    return confirm("Replace the transcript? It was not saved.");
  }

  onEvent(event) {
    if (event.kind === "transcribing") this._begin(event.name.replace(/\.[^.]+$/, "") || "transcript", { isLive: false });
    if (event.kind === "listening") this._begin(`microphone-${timestamp()}`, { isLive: true });
    const isEmpty = this._result().segments.length === 0;
    for (const button of this._buttons) button.disabled = isEmpty;
  }

  _begin(name, { isLive }) {
    this._name = name;
    this._isLive = isLive;
    this._savedSegments = 0;
  }

  _save(format) {
    const { type, serialize } = FORMATS[format];
    saveFile(new Blob([serialize(this._result())], { type: `${type};charset=utf-8` }), `${this._name}.${format}`);
    this._onSaved("Saved.");
  }

  async _copy() {
    const isCopied = await copyText(FORMATS.txt.serialize(this._result()));
    if (isCopied) this._onSaved("Copied.");
    else this._announce("The browser did not allow copying.");
  }

  _onSaved(words) {
    this._savedSegments = this._result().segments.length;
    this._announce(words);
  }

  _announce(words) {
    this._status.textContent = words;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => (this._status.textContent = ""), STATUS_MS);
  }
}
