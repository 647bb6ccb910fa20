/** Every choice takes effect at once, says what it does, and refuses openly what this browser cannot. */

import { MODELS } from "../../asr/model/models.js";
import { titleOf } from "../../transcribe/data/titles.js";
import { isLocal } from "../captions/captions.js";
import { listDevices } from "../audio/microphone.js";
import { wordsSentence } from "./messages.js";

const SAMPLING = ["temperature", "topK", "textTemperature", "textTopK", "seed"];
const CHOICES = ["echoCancellation", "noiseSuppression", "autoGainControl", "vad", "shortcuts"];
const SELECTS = ["barge", "words", "wordsModel"];
const VAD_STATES = Object.freeze({
  on: "Listening for your voice.",
  off: "Voice detection, in this browser.",
  loading: "Loading…",
  not_ready: "Not ready on this server.",
});
const MICROPHONE = new Set(["deviceId", "echoCancellation", "noiseSuppression", "autoGainControl"]);

export class Settings {
  constructor(preferences, { changed }) {
    this._preferences = preferences;
    this._changed = changed;
    this._dialog = document.getElementById("settings");
    this._form = document.getElementById("settings-form");
    this._vadState = document.getElementById("vad-state");
    this._wordsState = document.getElementById("words-state");
    this._fill();
    this._form.addEventListener("change", (event) => this._take(event.target));
    this._form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("open-settings").addEventListener("click", () => this._open());
    document.getElementById("close-settings").addEventListener("click", () => this._dialog.close());
    document.getElementById("reset-sampling").addEventListener("click", () => this._resetSampling());
    this._dialog.addEventListener("click", ({ target }) => {
      if (target === this._dialog) this._dialog.close(); // outside of it
    });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this._listDevices());
  }

  heed(event) {
    if (event.kind === "sound" && event.granted !== undefined) this._listDevices();
    if (event.kind === "vad") this._showVad(event.state);
    if (event.kind === "words") this._wordsState.textContent = wordsSentence(event);
  }

  async _open() {
    this._dialog.showModal();
    await this._listDevices();
    this._field("words").options.namedItem("browser-words").disabled = !(await isLocal());
  }

  _field(name) {
    return this._form.elements[name];
  }

  _fill() {
    for (const name of CHOICES) this._field(name).checked = this._preferences[name];
    this._field("wordsModel").replaceChildren(...MODELS.map((model) => new Option(titleOf(model), model.name)));
    for (const name of SELECTS) this._field(name).value = this._preferences[name];
    if (this._field("wordsModel").selectedIndex < 0) this._field("wordsModel").selectedIndex = 0;
    for (const name of SAMPLING) this._field(name).value = this._preferences.sampling[name] ?? "";
  }

  _take(field) {
    const { name } = field;
    if (SAMPLING.includes(name)) {
      this._takeSampling();
      return;
    }
    this._preferences[name] = field.type === "checkbox" ? field.checked : field.value;
    this._changed(MICROPHONE.has(name) ? "microphone" : name);
  }

  /** Empty is the server's own; what is out of range is not sent, and the field says so. */
  _takeSampling() {
    const fields = SAMPLING.map((name) => this._field(name));
    if (!fields.every((field) => field.reportValidity())) return;
    const chosen = fields.filter((field) => field.value !== "");
    this._preferences.sampling = Object.fromEntries(chosen.map((field) => [field.name, field.valueAsNumber]));
    this._changed("sampling");
  }

  _resetSampling() {
    for (const name of SAMPLING) this._field(name).value = "";
    this._takeSampling();
  }

  _showVad(state) {
    const refused = state === "not_ready";
    if (refused) {
      this._field("vad").checked = false;
      this._preferences.vad = false;
      this._changed("vad-refused");
    }
    this._vadState.textContent = VAD_STATES[state];
  }

  async _listDevices() {
    const { inputs, outputs } = await listDevices();
    this._offer("deviceId", inputs);
    this._offer("outputId", outputs);
    const choosable = globalThis.AudioContext?.prototype.setSinkId !== undefined;
    this._field("outputId").disabled = !choosable;
  }

  _offer(name, devices) {
    const select = this._field(name);
    const usual = new Option("The system's choice", "");
    select.replaceChildren(usual, ...devices.map(({ label, deviceId }) => new Option(label, deviceId)));
    select.value = this._preferences[name];
    if (select.value === "") select.selectedIndex = 0;
  }
}
