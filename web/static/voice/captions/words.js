/**
 * The user's own words are written down in this browser, beside the conversation and never in its way.
 *
 * Whisper hears what the server hears. Its words so far go to the server as they come, each utterance once
 * it is closed; where it cannot keep up it is Whisper that skips, not the sound. The model is loaded when it
 * is asked for, or with the first conversation, and stays between conversations.
 */

import { MODELS } from "../../asr/model/models.js";
import { Trouble } from "../../asr/errors.js";
import { Resampler } from "../audio/resampler.js";
import { RATE_HZ } from "../units.js";

const WHISPER_HZ = 16_000;
const OPTIONS = Object.freeze({ word_timestamps: false, condition_on_previous_text: false });

export class Words {
  constructor(preferences, { heed }) {
    this._preferences = preferences;
    this._heed = heed;
    this._transcriber = null;
    this._loading = null; // resolves to whether it is loaded
    this._turn = 0; // which loading it is: an earlier one that still comes is passed over
    this._call = null; // {port, write, listen} of the conversation
    this._stream = null;
    this._open = ""; // the utterance so far
    this._coming = new Map(); // files of the model: {loaded, total}
  }

  /** A conversation began: `port` brings its frames while `listen(true)` holds; `write({text, final})` sends. */
  join(port, { write, listen }) {
    this._call = { port, write, listen };
    if (this._preferences.words === "whisper") this._start();
  }

  /** It is over; what was open is closed as it stands. */
  leave() {
    if (this._call === null) return;
    this._stop();
    this._call.port.close();
    this._call = null;
  }

  /** The setting was changed. */
  adopt() {
    this._stop();
    this._unload();
    if (this._preferences.words !== "whisper") this._heed({ kind: "words", state: "off" });
    else if (this._call !== null) this._start();
    else this._load();
  }

  async _start() {
    const call = this._call;
    if (!(await this._load()) || call !== this._call || this._stream !== null) return;
    this._stream = this._transcriber.stream(OPTIONS);
    const resampler = new Resampler(RATE_HZ, WHISPER_HZ);
    call.port.onmessage = ({ data }) => this._stream?.push(resampler.process(data.samples));
    call.listen(true);
  }

  _stop() {
    if (this._stream === null) return;
    this._call.listen(false);
    this._stream.stop();
    this._stream = null;
    this._write(this._open, true);
  }

  _load() {
    this._loading ??= this._openModel();
    return this._loading;
  }

  async _openModel() {
    const turn = this._turn;
    this._heed({ kind: "words", state: "loading" });
    const { Transcriber } = await import("../../asr/transcriber.js"); // only where it is wanted
    if (turn !== this._turn) return false;
    const { name, revision } = MODELS.find((model) => model.name === this._preferences.wordsModel) ?? MODELS[0];
    const transcriber = new Transcriber({
      onEvent: (event) => {
        if (transcriber === this._transcriber) this._hear(event);
      },
    });
    this._transcriber = transcriber;
    try {
      const { device } = await transcriber.load({ model: name, revision, device: "auto" });
      if (transcriber !== this._transcriber) return false;
      this._heed({ kind: "words", state: "on", model: name, device });
      return true;
    } catch (error) {
      if (transcriber !== this._transcriber) return false;
      this._fail(error);
      return false;
    }
  }

  _unload() {
    this._turn += 1;
    this._transcriber?.close();
    this._transcriber = null;
    this._loading = null;
  }

  /** What the engine tells. */
  _hear(event) {
    switch (event.type) {
      case "progress":
        this._come(event);
        return;
      case "partial":
        this._write(event.text, false);
        return;
      case "utterance":
        this._write(event.text, true);
        return;
      case "dropped":
        if (event.what === "window") this._write(this._open, true); // what was understood of it stands
        this._heed({ kind: "words", state: "behind" });
        return;
      case "error":
        this._fail(event.error);
        return;
      default:
    }
  }

  _come({ file, loaded, total }) {
    this._coming.set(file, { loaded, total });
    const sum = (name) => [...this._coming.values()].reduce((bytes, one) => bytes + (one[name] ?? 0), 0);
    this._heed({ kind: "words", state: "loading", loaded: sum("loaded"), total: sum("total") });
  }

  _write(text, final) {
    const said = { text: text.trim(), final };
    const isNothing = said.text === "" && this._open === "";
    this._open = final ? "" : said.text;
    if (isNothing) return;
    this._heed({ kind: "user_text", ...said });
    this._call?.write(said);
  }

  _fail(error) {
    this._stop();
    this._unload();
    const isKnown = error instanceof Trouble;
    if (!isKnown) console.error(error);
    this._heed({ kind: "words", state: "not_ready", why: isKnown ? error.code : "crashed", message: error.message });
  }
}
