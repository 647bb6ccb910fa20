/** The settings dialog: every change is applied at once; options that this browser cannot offer are disabled. */

import { MODELS } from "../../asr/model/model-list.js";
import { markStored, modelTitle } from "../../transcribe/data/model-title.js";
import { listDevices } from "../audio/microphone.js";
import { isLocalRecognitionAvailable } from "../captions/browser-captions.js";
import { captionsMessage } from "./messages.js";
import { SETTINGS } from "./settings-markup.js";

const SAMPLING_FIELDS = ["temperature", "topK", "textTemperature", "textTopK", "seed"];
const CHECKBOXES = ["echoCancellation", "noiseSuppression", "autoGainControl", "shortcuts"];
const SELECTS = ["bargeIn", "captions", "captionsModel", "talkMode", "vad"];
const VAD_STATES = Object.freeze({
  on: "Speech is noticed at present.",
  off: "",
  loading: "Loading the model…",
  not_ready: "The model is not available on this server; the level decides.",
});
const MICROPHONE_SETTINGS = new Set(["deviceId", "echoCancellation", "noiseSuppression", "autoGainControl"]);

export class SettingsDialog {
  constructor({ preferences, onChange }) {
    document.body.insertAdjacentHTML("beforeend", SETTINGS);
    this._preferences = preferences;
    this._onChange = onChange;
    this._dialog = document.getElementById("settings");
    this._form = document.getElementById("settings-form");
    this._vadState = document.getElementById("vad-state");
    this._captionsState = document.getElementById("captions-state");
    this._fill();
    this._form.addEventListener("change", (event) => this._onFieldChange(event.target));
    this._field("volume").addEventListener("input", () => {
      this._preferences.volume = this._field("volume").valueAsNumber / 100;
      this._showVolume();
      this._onChange("volume");
    });
    this._form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("close-settings").addEventListener("click", () => this._dialog.close());
    document.getElementById("reset-sampling").addEventListener("click", () => this._resetSampling());
    this._dialog.addEventListener("click", ({ target }) => {
      if (target === this._dialog) this._dialog.close(); // a click on the backdrop
    });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this._listDevices());
  }

  onEvent(event) {
    if (event.kind === "audio_state" && event.granted !== undefined) this._listDevices();
    if (event.kind === "vad") this._showVad(event.state);
    if (event.kind === "captions") {
      this._captionsState.textContent = captionsMessage(event, location);
      this._captionsState.title = event.message ?? ""; // technical, for the server's owner
    }
  }

  /** `name`: the field to go to. */
  async open(name) {
    if (!this._dialog.open) this._dialog.showModal();
    if (name !== undefined) this._field(name).focus();
    await Promise.all([this._listDevices(), this._showStored()]);
    const option = this._field("captions").options.namedItem("browser-captions");
    option.disabled = !(await isLocalRecognitionAvailable());
  }

  /** Which Whisper models are stored here; unless the user chose one, the one that captions use is selected. */
  async _showStored() {
    const names = new Set();
    try {
      const { storedModels } = await import("../../asr/model/load-plan.js"); // not needed to show the page
      for await (const { name } of storedModels(MODELS)) names.add(name);
    } catch {
      return; // the server has gone, or storage is switched off: nothing is known to be stored
    }
    const select = this._field("captionsModel");
    markStored(select, MODELS, names);
    if (this._preferences.captionsModel === "" && names.size > 0) {
      select.value = MODELS.find(({ name }) => names.has(name)).name;
    }
  }

  _field(name) {
    return this._form.elements[name];
  }

  _fill() {
    for (const name of CHECKBOXES) this._field(name).checked = this._preferences[name];
    this._field("captionsModel").replaceChildren(
      ...MODELS.map((model) => new Option(modelTitle(model), model.name)),
    );
    for (const name of SELECTS) this._field(name).value = this._preferences[name];
    this._field("volume").value = 100 * this._preferences.volume;
    this._showVolume();
    this._showBargeIn();
    if (this._field("captionsModel").selectedIndex < 0) this._field("captionsModel").selectedIndex = 0;
    for (const name of SAMPLING_FIELDS) this._field(name).value = this._preferences.sampling[name] ?? "";
  }

  _onFieldChange(field) {
    const { name } = field;
    if (SAMPLING_FIELDS.includes(name)) {
      this._onSamplingChange();
      return;
    }
    if (name === "volume") this._preferences.volume = field.valueAsNumber / 100;
    else this._preferences[name] = field.type === "checkbox" ? field.checked : field.value;
    this._showBargeIn();
    this._onChange(MICROPHONE_SETTINGS.has(name) ? "microphone" : name);
  }

  /** Empty fields use the server's defaults; values out of range are reported in the form and not sent. */
  _onSamplingChange() {
    const fields = SAMPLING_FIELDS.map((name) => this._field(name));
    if (!fields.every((field) => field.reportValidity())) return;
    const filled = fields.filter((field) => field.value !== "");
    this._preferences.sampling = Object.fromEntries(filled.map((field) => [field.name, field.valueAsNumber]));
    this._onChange("sampling");
  }

  _resetSampling() {
    for (const name of SAMPLING_FIELDS) this._field(name).value = "";
    this._onSamplingChange();
  }

  _showVad(state) {
    this._vadState.textContent = VAD_STATES[state];
  }

  /** What the agent does when you speak needs a way to notice it. */
  _showBargeIn() {
    this._field("bargeIn").disabled = this._preferences.vad === "off";
  }

  _showVolume() {
    document.getElementById("volume-value").textContent = `${this._field("volume").value} %`;
  }

  async _listDevices() {
    const { inputs, outputs } = await listDevices();
    this._setDevices("deviceId", inputs);
    this._setDevices("outputId", outputs);
    const canSelectOutput = globalThis.AudioContext?.prototype.setSinkId !== undefined;
    this._field("outputId").disabled = !canSelectOutput;
  }

  _setDevices(name, devices) {
    const select = this._field(name);
    const options = devices.map(({ label, deviceId }) => new Option(label, deviceId));
    select.replaceChildren(new Option("System default", ""), ...options);
    select.value = this._preferences[name];
    if (select.value === "") select.selectedIndex = 0;
  }
}
