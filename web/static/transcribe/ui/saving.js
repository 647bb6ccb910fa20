/** What was transcribed is saved by the user, in the form they choose, under the name of what they gave. */

import { FORMATS } from "../data/exports.js";

export class Saving {
  /** `result()` is what there is to save: `{ segments, info }`. */
  constructor({ result }) {
    this._result = result;
    this._name = "transcript";
    this._buttons = [...document.querySelectorAll("#exports [data-format]")];
    for (const button of this._buttons) {
      button.addEventListener("click", () => this._save(button.dataset.format));
    }
  }

  heed(event) {
    if (event.kind === "transcribing") this._name = event.name.replace(/\.[^.]+$/, "") || "transcript";
    if (event.kind === "listening") this._name = `microphone-${stamp()}`;
    const nothing = this._result().segments.length === 0;
    for (const button of this._buttons) button.disabled = nothing;
  }

  _save(format) {
    const { type, spell } = FORMATS[format];
    const url = URL.createObjectURL(new Blob([spell(this._result())], { type: `${type};charset=utf-8` }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `${this._name}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000); // the download reads it after this turn
  }
}

const stamp = () => new Date().toISOString().slice(0, 19).replaceAll(":", "-");
