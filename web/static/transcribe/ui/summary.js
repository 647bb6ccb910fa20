/** What came of it is said in one line: the language, how sure, how much was speech, how fast. */

import { clock } from "../data/times.js";

const names = new Intl.DisplayNames(["en"], { type: "language" });

export class Summary {
  constructor() {
    this._language = document.getElementById("language");
    this._line = document.getElementById("summary");
    this._beganMs = 0;
  }

  heed(event) {
    if (event.kind === "transcribing" || event.kind === "listening") {
      this._beganMs = performance.now();
      this._line.textContent = "";
      this._language.hidden = true;
    }
    if (event.kind === "done") this._tell(event);
  }

  _tell({ info, words, live }) {
    const { language, language_probability: sure, duration, duration_after_vad: spoken } = info;
    this._language.hidden = language === null;
    if (language !== null) this._language.textContent = `${names.of(language)}${share(sure)}`;
    const tookS = (performance.now() - this._beganMs) / 1000;
    const parts = [`${clock(duration)} of sound`, `${clock(spoken)} of speech`, `${words} words`];
    if (!live) parts.push(`${tookS.toFixed(1)} s of work, ${(duration / tookS).toFixed(1)} × as fast as it was said`);
    this._line.textContent = `${parts.join(" · ")}.`;
  }
}

const share = (sure) => (sure === 1 || sure === null ? "" : `, ${Math.round(100 * sure)} % sure`);
