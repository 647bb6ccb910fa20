/**
 * The transcription options, by faster-whisper's names; empty fields are not sent, so that defaults apply.
 *
 * They are kept in this browser's localStorage; anything unreadable falls back to the default.
 */

import { readOptions } from "../../asr/options.js";
import { LANGUAGES, languageName } from "../data/languages.js";

const KEY = "whisperx"; // in localStorage
const DETECT = "Detect automatically";
const CHECKS = Object.freeze({ vad_filter: true, word_timestamps: true, condition_on_previous_text: true });
const VAD = [
  "threshold",
  "neg_threshold",
  "min_speech_duration_ms",
  "max_speech_duration_s",
  "min_silence_duration_ms",
  "speech_pad_ms",
];

export class Options {
  constructor() {
    this._form = document.getElementById("options-form");
    this._headline = document.getElementById("options-headline");
    this._multilingual = true;
    this._setLanguages(LANGUAGES);
    this._setPlaceholders();
    this._fill(load());
    this._form.addEventListener("submit", (event) => event.preventDefault());
    this._form.addEventListener("change", () => this._onChange());
    document.getElementById("options-reset").addEventListener("click", () => this._reset());
    this._updateHeadline();
  }

  onEvent(event) {
    if (event.kind !== "loaded") return;
    this.setModel(event);
    if (event.languages.length > 0) this._setLanguages(event.languages);
  }

  /** The options for the engine; null if a field is invalid. */
  get options() {
    const fields = [...this._form.elements];
    if (!fields.every((field) => field.disabled || field.reportValidity())) return null;
    const { language, task, initial_prompt, vad_parameters, ...checks } = this._readForm();
    const options = { ...checks, vad_parameters, task: this._multilingual ? task : "transcribe" };
    if (!this._multilingual) options.language = "en";
    else if (language !== "") options.language = language;
    if (initial_prompt !== "") options.initial_prompt = initial_prompt;
    return options;
  }

  /** English-only models have one language and one task. */
  setModel({ multilingual }) {
    this._multilingual = multilingual;
    for (const name of ["language", "task"]) this._field(name).disabled = !multilingual;
    this._updateHeadline();
  }

  /** Show the defaults as placeholders: for files, and for live audio if different. */
  _setPlaceholders() {
    const [file, live] = [false, true].map((streaming) => readOptions({}, { streaming }).vad_parameters);
    for (const name of VAD) {
      const hint = file[name] === live[name] ? `${file[name]}` : `${file[name]}, live ${live[name]}`;
      this._field(name).placeholder = hint;
    }
  }

  /** Replace the languages; the selection is kept if it is still available. */
  _setLanguages(languages) {
    const select = this._field("language");
    const { value } = select;
    const offered = languages.map((code) => new Option(languageName(code), code));
    offered.sort((a, b) => a.text.localeCompare(b.text));
    select.replaceChildren(new Option(DETECT, ""), ...offered);
    select.value = value;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }

  _field(name) {
    return this._form.elements[name];
  }

  _readForm() {
    const numbers = VAD.map((name) => [name, this._field(name).valueAsNumber]);
    return {
      ...Object.fromEntries(Object.keys(CHECKS).map((name) => [name, this._field(name).checked])),
      language: this._field("language").value,
      task: this._field("task").value,
      initial_prompt: this._field("initial_prompt").value.trim(),
      vad_parameters: Object.fromEntries(numbers.filter(([, value]) => !Number.isNaN(value))),
    };
  }

  _fill(stored) {
    for (const [name, fallback] of Object.entries(CHECKS)) this._field(name).checked = stored[name] ?? fallback;
    for (const name of VAD) this._field(name).value = stored.vad_parameters?.[name] ?? "";
    for (const name of ["language", "task", "initial_prompt"]) {
      if (typeof stored[name] === "string") this._field(name).value = stored[name];
    }
    if (this._field("task").selectedIndex < 0) this._field("task").selectedIndex = 0;
    if (this._field("language").selectedIndex < 0) this._field("language").selectedIndex = 0;
  }

  _onChange() {
    save(this._readForm());
    this._updateHeadline();
  }

  _reset() {
    this._fill({});
    this._field("language").value = "";
    this._field("task").value = "transcribe";
    this._field("initial_prompt").value = "";
    this._onChange();
  }

  _updateHeadline() {
    const { selectedOptions } = this._field("language");
    const language = this._multilingual ? selectedOptions[0].text : "English";
    const task = this._multilingual && this._field("task").value === "translate" ? ", translated to English" : "";
    this._headline.textContent = `${language === DETECT ? "Detect language" : language}${task}`;
  }
}

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function save(options) {
  try {
    localStorage.setItem(KEY, JSON.stringify(options));
  } catch {
    // Storage is full or disabled (private browsing): the options last until the page is closed.
  }
}
