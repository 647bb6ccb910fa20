/**
 * The model card: choose a model and a device, then download and load the model.
 *
 * Until the user asks for the download, no request is sent: the size is an estimate.
 */

import { AsrError } from "../../asr/errors.js";
import { storedModels } from "../../asr/model/load-plan.js";
import { MODELS } from "../../asr/model/model-list.js";
import { formatBytes } from "../data/format.js";
import { estimateBytes, markStored, modelTitle } from "../data/model-title.js";
import { PASSING } from "./messages.js";

const KEY = "whisperx-model"; // in localStorage
const DEVICE_NAMES = Object.freeze({ webgpu: "the GPU (WebGPU)", wasm: "the CPU (WebAssembly)" });

export class ModelCard {
  /**
   * `plan(settings)`: what is stored here; `load()`, `cancel()`: user actions; `onChange()`: another model or
   * device was selected.
   */
  constructor({ plan, load, cancel, onChange, onEvent }) {
    const get = (id) => document.getElementById(id);
    this._plan = plan;
    this._isInstalled = true;
    this._emit = onEvent;
    this._modelSelect = get("model-choice");
    this._deviceSelect = get("device-choice");
    this._state = get("model-state");
    this._progress = get("model-progress");
    this._load = get("load");
    this._cancel = get("load-cancel");
    this._device = get("model-device");
    this._files = new Map(); // download progress by file: {loaded, total}
    this._modelSelect.replaceChildren(...MODELS.map((model) => new Option(modelTitle(model), model.name)));
    const [model, device] = loadChoice();
    [this._modelSelect.value, this._deviceSelect.value] = [model, device];
    this._isChosen = this._modelSelect.selectedIndex >= 0;
    for (const select of [this._modelSelect, this._deviceSelect]) {
      if (select.selectedIndex < 0) select.selectedIndex = 0;
      select.addEventListener("change", () => {
        this._isChosen = true;
        saveChoice([this._modelSelect.value, this._deviceSelect.value]);
        onChange();
      });
    }
    this._load.addEventListener("click", load);
    this._cancel.addEventListener("click", cancel);
  }

  /** The selected entry of MODELS. */
  get selectedModel() {
    return MODELS[this._modelSelect.selectedIndex];
  }

  /** The settings for loading the selected model. */
  get settings() {
    const { name, revision } = this.selectedModel;
    return { model: name, revision, device: this._deviceSelect.value };
  }

  /** Mark the models that are stored in this browser; unless the user chose one, select the first of them. */
  async showStored() {
    const names = new Set();
    try {
      for await (const { name } of storedModels(MODELS, { device: this._deviceSelect.value })) names.add(name);
    } catch {
      // Storage is switched off, or there is no such device: reported for the model that is selected.
    }
    markStored(this._modelSelect, MODELS, names);
    if (this._isChosen || this._modelSelect.disabled || names.size === 0) return;
    this._modelSelect.value = MODELS.find(({ name }) => names.has(name)).name;
  }

  /** Check whether the selected model is stored in this browser. */
  async checkCache() {
    const { settings } = this;
    this._setStatus("Checking…");
    let plan;
    try {
      plan = await this._plan(settings);
    } catch (error) {
      if (!(error instanceof AsrError)) throw error;
      this._setStatus("");
      this._emit({ kind: "load_failed", why: error.code, message: error.message });
      return;
    }
    if (JSON.stringify(settings) !== JSON.stringify(this.settings)) return; // another one was selected meanwhile
    const complete = plan.files.every(({ cached }) => cached);
    const bytes = bytesOf(plan.files);
    const missing = complete ? 0 : Math.max(0, estimateBytes(this.selectedModel, plan.device) - bytes);
    this._emit({ kind: "cache_checked", complete, bytes, missing });
    this._showDevice(plan);
  }

  onEvent(event, phase) {
    switch (event.kind) {
      case "cache_checked":
        this._setStatus(
          event.complete
            ? `Stored in this browser (${formatBytes(event.bytes)}). No download needed.`
            : `Not stored in this browser yet: about ${formatBytes(event.missing)} to download, once.`,
        );
        this._load.textContent = event.complete ? "Load model" : "Download model";
        this._load.classList.toggle("strong", !event.complete); // a stored one is loaded when audio is chosen, too
        break;
      case "loading":
        this._isChosen = true; // it stays selected
        this._files.clear();
        this._setStatus("Loading…");
        break;
      case "progress":
        this._onProgress(event);
        break;
      case "loaded":
        this._setStatus(`Ready (loaded in ${(event.loadMs / 1000).toFixed(1)} s)`);
        this._showDevice(event);
        this.showStored();
        break;
      case "not_installed":
        this._setStatus("Whisper is not installed on this server. Run “make vendor” there, then restart it.");
        break;
      case "load_failed":
        if (phase !== "idle") break;
        this._setStatus(PASSING.has(event.why) ? "Not downloaded." : ""); // the notice below says why
        this._state.title = event.message ?? ""; // for the server's owner
        if (PASSING.has(event.why)) this._load.textContent = "Try again";
        break;
      case "cancelled":
        if (phase === "idle") this._setStatus("");
        break;
      default:
    }
    if (event.kind === "not_installed") this._isInstalled = false;
    this._render(phase);
  }

  _render(phase) {
    const isLoading = phase === "loading";
    this._load.hidden = phase !== "idle" || !this._isInstalled;
    this._cancel.hidden = !isLoading;
    this._progress.hidden = !isLoading;
    this._modelSelect.disabled = this._deviceSelect.disabled = phase !== "idle" && phase !== "ready";
  }

  _onProgress({ file, loaded, total }) {
    this._files.set(file, { loaded, total });
    const files = [...this._files.values()];
    const loadedBytes = files.reduce((sum, one) => sum + one.loaded, 0);
    const totalBytes = files.reduce((sum, one) => sum + (one.total ?? one.loaded), 0);
    if (loadedBytes < totalBytes) {
      this._progress.value = loadedBytes / totalBytes;
      this._setStatus(`Downloading: ${formatBytes(loadedBytes)} of ${formatBytes(totalBytes)}`);
    } else {
      this._progress.removeAttribute("value"); // the download is complete, the model is being loaded
      this._setStatus("Loading…");
    }
  }

  _showDevice({ device, reason }) {
    this._device.textContent = `Runs on ${DEVICE_NAMES[device]}: ${reason}.`;
  }

  _setStatus(text) {
    this._state.textContent = text;
  }
}

const bytesOf = (files) => files.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);

function loadChoice() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? ["", ""];
  } catch {
    return ["", ""];
  }
}

function saveChoice(choice) {
  try {
    localStorage.setItem(KEY, JSON.stringify(choice));
  } catch {
    // Storage is full or disabled (private browsing): the choice lasts until the page is closed.
  }
}
