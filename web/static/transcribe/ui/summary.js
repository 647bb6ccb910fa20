/** The summary of a transcription: language, durations, number of words, speed. */

import { formatDuration } from "../data/format.js";
import { languageName } from "../data/languages.js";

export class Summary {
  constructor() {
    this._language = document.getElementById("language");
    this._summary = document.getElementById("summary");
    this._startedMs = 0;
  }

  onEvent(event) {
    if (event.kind === "transcribing" || event.kind === "listening") {
      this._startedMs = performance.now();
      this._summary.textContent = "";
      this._language.hidden = true;
    }
    if (event.kind === "done") this._show(event);
  }

  _show({ info, words, live }) {
    const { language, language_probability: probability, duration, duration_after_vad: speechDuration } = info;
    this._language.hidden = language === null;
    if (language !== null) this._language.textContent = `${languageName(language)}${percent(probability)}`;
    const tookS = (performance.now() - this._startedMs) / 1000;
    const parts = [
      `${formatDuration(duration)} of audio`,
      `${formatDuration(speechDuration)} of speech`,
      words === 1 ? "1 word" : `${words} words`,
    ];
    if (!live) parts.push(`transcribed in ${tookS.toFixed(1)} s, ${(duration / tookS).toFixed(1)}× real time`);
    this._summary.textContent = parts.join(" · ");
  }
}

const percent = (probability) =>
  probability === 1 || probability === null ? "" : ` (${Math.round(100 * probability)} %)`;
