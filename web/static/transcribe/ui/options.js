/**
 * Every option has faster-whisper's name; what is left empty is not sent, and so is the engine's own.
 *
 * Kept in this browser, and nowhere else; what is unreadable is what was never chosen.
 */

import { readOptions } from "../../asr/options.js";
import { LANGUAGES } from "../data/languages.js";

const KEY = "whisperx";
const names = new Intl.DisplayNames(["en"], { type: "language" });
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
    this._offer(LANGUAGES);
    this._hint();
    this._fill(load());
    this._form.addEventListener("submit", (event) => event.preventDefault());
    this._form.addEventListener("change", () => this._take());
    document.getElementById("options-reset").addEventListener("click", () => this._reset());
    this._show();
  }

  heed(event) {
    if (event.kind !== "loaded") return;
    this.adopt(event);
    if (event.languages.length > 0) this._offer(event.languages);
  }

  /** For the engine; null where a field holds what it may not. */
  get chosen() {
    const fields = [...this._form.elements];
    if (!fields.every((field) => field.disabled || field.reportValidity())) return null;
    const { language, task, initial_prompt, vad_parameters, ...checks } = this._read();
    const options = { ...checks, vad_parameters, task: this._multilingual ? task : "transcribe" };
    if (!this._multilingual) options.language = "en";
    else if (language !== "") options.language = language;
    if (initial_prompt !== "") options.initial_prompt = initial_prompt;
    return options;
  }

  /** A model of English alone has one language and one task. */
  adopt({ multilingual }) {
    this._multilingual = multilingual;
    for (const name of ["language", "task"]) this._field(name).disabled = !multilingual;
    this._show();
  }

  /** What holds where a field is left empty: for a file, and for the microphone where that differs. */
  _hint() {
    const [file, live] = [false, true].map((streaming) => readOptions({}, { streaming }).vad_parameters);
    for (const name of VAD) {
      const hint = file[name] === live[name] ? `${file[name]}` : `${file[name]}, live ${live[name]}`;
      this._field(name).placeholder = hint;
    }
  }

  /** What was chosen stays, where it is offered. */
  _offer(languages) {
    const select = this._field("language");
    const { value } = select;
    const offered = languages.map((code) => new Option(names.of(code), code));
    offered.sort((a, b) => a.text.localeCompare(b.text));
    select.replaceChildren(new Option("find out", ""), ...offered);
    select.value = value;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }

  _field(name) {
    return this._form.elements[name];
  }

  _read() {
    const numbers = VAD.map((name) => [name, this._field(name).valueAsNumber]);
    return {
      ...Object.fromEntries(Object.keys(CHECKS).map((name) => [name, this._field(name).checked])),
      language: this._field("language").value,
      task: this._field("task").value,
      initial_prompt: this._field("initial_prompt").value.trim(),
      vad_parameters: Object.fromEntries(numbers.filter(([, value]) => !Number.isNaN(value))),
    };
  }

  _fill(kept) {
    for (const [name, usual] of Object.entries(CHECKS)) this._field(name).checked = kept[name] ?? usual;
    for (const name of VAD) this._field(name).value = kept.vad_parameters?.[name] ?? "";
    for (const name of ["language", "task", "initial_prompt"]) {
      if (typeof kept[name] === "string") this._field(name).value = kept[name];
    }
    if (this._field("task").selectedIndex < 0) this._field("task").selectedIndex = 0;
    if (this._field("language").selectedIndex < 0) this._field("language").selectedIndex = 0;
  }

  _take() {
    keep(this._read());
    this._show();
  }

  _reset() {
    this._fill({});
    this._field("language").value = "";
    this._field("task").value = "transcribe";
    this._field("initial_prompt").value = "";
    this._take();
  }

  _show() {
    const { selectedOptions } = this._field("language");
    const language = this._multilingual ? selectedOptions[0].text : "English";
    const task = this._multilingual && this._field("task").value === "translate" ? ", into English" : "";
    this._headline.textContent = `${language === "find out" ? "any language" : language}${task}`;
  }
}

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function keep(options) {
  try {
    localStorage.setItem(KEY, JSON.stringify(options));
  } catch {
    // A browser that keeps nothing (private mode, full): the choice holds until the page closes.
  }
}
