/** The export buttons: download the transcript in one of the formats. */

import { FORMATS } from "../data/exports.js";

export class ExportButtons {
  /** `result()`: the transcript to export, `{ segments, info }`. */
  constructor({ result }) {
    this._result = result;
    this._name = "transcript";
    this._buttons = [...document.querySelectorAll("#exports [data-format]")];
    for (const button of this._buttons) {
      button.addEventListener("click", () => this._save(button.dataset.format));
    }
  }

  onEvent(event) {
    if (event.kind === "transcribing") this._name = event.name.replace(/\.[^.]+$/, "") || "transcript";
    if (event.kind === "listening") this._name = `microphone-${timestamp()}`;
    const isEmpty = this._result().segments.length === 0;
    for (const button of this._buttons) button.disabled = isEmpty;
  }

  _save(format) {
    const { type, serialize } = FORMATS[format];
    const url = URL.createObjectURL(new Blob([serialize(this._result())], { type: `${type};charset=utf-8` }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `${this._name}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000); // the download starts after this task
  }
}

const timestamp = () => new Date().toISOString().slice(0, 19).replaceAll(":", "-");
