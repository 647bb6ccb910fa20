/**
 * Nothing large is fetched before its size was shown; what is kept needs no network.
 *
 * The card knows what the browser keeps of the chosen model, what would have to come, and what runs it.
 */

import { MODELS } from "../../asr/model/models.js";
import { Trouble } from "../../asr/errors.js";
import { size } from "../data/times.js";
import { titleOf } from "../data/titles.js";

const KEY = "whisperx-model";
const RUNS_ON = Object.freeze({ webgpu: "the graphics card (WebGPU)", wasm: "the processor (WebAssembly)" });

export class ModelCard {
  /** `plan(wish)` says what would come. `load()`, `stop()`: what the user wishes; `changed()`: another model was chosen, or another way to run it. */
  constructor({ plan, load, stop, changed, heed }) {
    const get = (id) => document.getElementById(id);
    this._plan = plan;
    this._heed = heed;
    this._model = get("model-choice");
    this._way = get("device-choice");
    this._state = get("model-state");
    this._progress = get("model-progress");
    this._load = get("load");
    this._stop = get("load-stop");
    this._device = get("model-device");
    this._coming = new Map(); // {loaded, total} by file
    this._expectedBytes = 0;
    this._model.replaceChildren(...MODELS.map((model) => new Option(titleOf(model), model.name)));
    [this._model.value, this._way.value] = recall();
    for (const select of [this._model, this._way]) {
      if (select.selectedIndex < 0) select.selectedIndex = 0;
      select.addEventListener("change", () => {
        remember([this._model.value, this._way.value]);
        changed();
      });
    }
    this._load.addEventListener("click", load);
    this._stop.addEventListener("click", stop);
  }

  /** The one of the list. */
  get chosen() {
    return MODELS[this._model.selectedIndex];
  }

  /** What the engine is to load. */
  get wish() {
    return { model: this.chosen.name, revision: this.chosen.revision, device: this._way.value };
  }

  /** Look what is kept of the chosen model, and ask how large the rest is. */
  async look() {
    const { wish } = this;
    this._say("Looking…");
    let plan;
    try {
      plan = await this._plan(wish);
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      this._say("");
      this._heed({ kind: "load_failed", why: error.code, message: error.message });
      return;
    }
    if (JSON.stringify(wish) !== JSON.stringify(this.wish)) return; // another one was chosen meanwhile
    const missing = plan.files.filter(({ cached }) => !cached);
    this._expectedBytes = bytesOf(missing);
    this._heed({ kind: "looked", whole: missing.length === 0, bytes: bytesOf(plan.files), missing: this._expectedBytes });
    this._tell(plan);
  }

  heed(event, phase) {
    switch (event.kind) {
      case "looked":
        this._say(
          event.whole
            ? `Kept in this browser, ${size(event.bytes)}: it needs no network.`
            : `To be fetched once: ${size(event.missing)}. It is then kept in this browser.`,
        );
        this._load.textContent = event.whole ? "Start it" : `Get the model, ${size(event.missing)}`;
        break;
      case "loading":
        this._coming.clear();
        this._say("Starting…");
        break;
      case "progress":
        this._come(event);
        break;
      case "loaded":
        this._say(`Ready, after ${(event.loadMs / 1000).toFixed(1)} s.`);
        this._tell(event);
        break;
      case "load_failed":
      case "cancelled":
        if (phase === "idle") this._say("");
        break;
      default:
    }
    this._show(phase);
  }

  _show(phase) {
    const loading = phase === "loading";
    this._load.hidden = phase !== "idle";
    this._stop.hidden = !loading;
    this._progress.hidden = !loading;
    this._model.disabled = this._way.disabled = phase !== "idle" && phase !== "ready";
  }

  _come({ file, loaded, total }) {
    this._coming.set(file, { loaded, total });
    const files = [...this._coming.values()];
    const loadedBytes = files.reduce((sum, one) => sum + one.loaded, 0);
    const wholeBytes = Math.max(this._expectedBytes, files.reduce((sum, one) => sum + (one.total ?? one.loaded), 0));
    if (loadedBytes < wholeBytes) {
      this._progress.value = loadedBytes / wholeBytes;
      this._say(`${size(loadedBytes)} of ${size(wholeBytes)}`);
    } else {
      this._progress.removeAttribute("value"); // it is all here, and started
      this._say("Starting…");
    }
  }

  _tell({ device, reason }) {
    this._device.textContent = `Runs on ${RUNS_ON[device]}: ${reason}.`;
  }

  _say(text) {
    this._state.textContent = text;
  }
}

const bytesOf = (files) => files.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);

function recall() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? ["", ""];
  } catch {
    return ["", ""];
  }
}

function remember(choice) {
  try {
    localStorage.setItem(KEY, JSON.stringify(choice));
  } catch {
    // A browser that keeps nothing (private mode, full): the choice holds until the page closes.
  }
}
