/** The sound comes from the microphone or a file, one at a time; what is under way can always be stopped. */

import { decibels } from "../../voice/audio/envelope.js";
import { clock } from "../data/times.js";

const HINT = "or drop one here: any sound or film that this browser can play";

export class SoundCard {
  /** `listen()`, `stop()`, `cancel()` and `file(file)` are what the user may wish for. */
  constructor({ listen, stop, cancel, file }) {
    const get = (id) => document.getElementById(id);
    this._listen = get("listen");
    this._label = get("listen-label");
    this._file = get("file");
    this._work = get("work");
    this._progress = get("work-progress");
    this._level = get("level");
    this._cancel = get("cancel");
    this._hint = get("drop-hint");
    this._phase = "idle";
    this._kept = false;
    this._durationS = 0;
    this._listen.addEventListener("click", () => (this._phase === "listening" ? stop() : listen()));
    this._cancel.addEventListener("click", cancel);
    this._file.addEventListener("change", () => {
      const [chosen] = this._file.files;
      this._file.value = ""; // the same file may be chosen again
      if (chosen !== undefined) file(chosen);
    });
    this._takeDrops(get("drop"), file);
  }

  heed(event, phase) {
    this._phase = phase;
    switch (event.kind) {
      case "looked":
        this._kept = event.whole;
        break;
      case "decoding":
        this._say(`Reading ${event.name}…`);
        this._measure(null);
        break;
      case "transcribing":
        this._durationS = event.durationS;
        this._say(`Listening to ${event.name}, ${clock(event.durationS)} long…`);
        this._measure(0);
        break;
      case "segment":
        if (phase === "transcribing") this._measure(event.segment.end / this._durationS);
        break;
      case "opening":
        this._say("Opening the microphone…");
        break;
      case "heard":
        this._hear(event);
        break;
      case "finishing":
        this._say("Finishing the last words…");
        break;
      case "done":
      case "cancelled":
      case "failed":
        this._say({ done: "", cancelled: "Stopped.", failed: "" }[event.kind]);
        break;
      default:
    }
    this._show(phase);
  }

  _hear({ seconds, rms }) {
    this._level.value = decibels(rms);
    this._say(`Listening, ${clock(seconds)}. Speak.`);
  }

  _show(phase) {
    const able = phase === "ready" || (phase === "idle" && this._kept);
    this._listen.disabled = !(able || phase === "listening");
    this._listen.setAttribute("aria-pressed", String(phase === "listening"));
    this._label.textContent = phase === "listening" ? "Stop listening" : "Use the microphone";
    this._file.disabled = !able;
    this._hint.textContent = able || phase !== "idle" ? HINT : "The model comes first.";
    this._level.hidden = phase !== "listening";
    this._cancel.hidden = !["decoding", "transcribing", "finishing", "opening"].includes(phase);
    if (phase !== "transcribing" && phase !== "decoding") this._progress.hidden = true;
  }

  _say(text) {
    if (this._work.textContent !== text) this._work.textContent = text;
  }

  /** The share that is done; null while it is not known. */
  _measure(share) {
    this._progress.hidden = false;
    if (share === null) this._progress.removeAttribute("value");
    else this._progress.value = Math.min(1, share);
  }

  _takeDrops(place, file) {
    const over = (event, inside) => {
      event.preventDefault();
      place.dataset.over = String(inside && !this._file.disabled);
    };
    place.addEventListener("dragover", (event) => over(event, true));
    place.addEventListener("dragleave", (event) => over(event, false));
    place.addEventListener("drop", (event) => {
      over(event, false);
      const [dropped] = event.dataTransfer.files;
      if (dropped !== undefined && !this._file.disabled) file(dropped);
    });
  }
}
