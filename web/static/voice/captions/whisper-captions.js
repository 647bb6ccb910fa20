/**
 * Captions of the user by Whisper in this browser, during the call.
 *
 * Whisper gets the same audio as the server. Partial and final captions are shown and sent to the server; if Whisper
 * cannot keep up, captions are dropped, never audio. The model is loaded when captions are switched on, or with the
 * first call, and is kept between calls. By default (`auto`) they are on if a model is stored in this browser.
 */

import { MODELS } from "../../asr/model/model-list.js";
import { AsrError } from "../../asr/errors.js";
import { Resampler } from "../audio/resampler.js";
import { RATE_HZ } from "../units.js";
import { StreamClock } from "./stream-clock.js";

const SAMPLE_RATE_HZ = 16_000;
const OPTIONS = Object.freeze({ word_timestamps: false, condition_on_previous_text: false });

export class WhisperCaptions {
  constructor(preferences, { onEvent }) {
    this._preferences = preferences;
    this._onEvent = onEvent;
    this._transcriber = null;
    this._loading = null; // promise of whether the model was loaded
    this._loadId = 0; // identifies the current load; results of earlier ones are ignored
    this._call = null; // {port, send, setPortEnabled} of the current call
    this._stream = null;
    this._clock = null; // of the stream
    this._openText = ""; // the utterance so far
    this._openMs = null; // when it began
    this._on = null; // the event that captions are on
    this._files = new Map(); // download progress by file: {loaded, total}
  }

  /** A call started: `port` delivers its frames while `setPortEnabled(true)`; `send({text, final})` sends captions. */
  attach(port, { send, setPortEnabled }) {
    this._openText = ""; // the page has closed the line of the call before
    this._stop();
    this._call = { port, send, setPortEnabled };
    if (this._isWanted) this._start();
  }

  /** Whether the user's speech is being transcribed. */
  get isActive() {
    return this._stream !== null && this._call !== null;
  }

  /** Whether the call is over, and its last words are being written down. */
  get _isFinishing() {
    return this._stream !== null && this._call === null;
  }

  get _isWanted() {
    return this._preferences.captions === "whisper" || this._preferences.captions === "auto";
  }

  /**
   * The call ended. The server gets the open caption as it is; for the page, what was said until now is still written
   * down, unless another call begins.
   */
  detach() {
    if (this._call === null) return;
    if (this._openText !== "") this._call.send({ text: this._openText, final: true });
    this._call.setPortEnabled(false);
    this._call.port.close();
    this._call = null;
    this._finish();
  }

  async _finish() {
    const stream = this._stream;
    if (stream === null) return;
    this._onEvent({ kind: "captions", state: "finishing" });
    try {
      await stream.flush();
    } catch {
      return; // reported by an event of the stream
    }
    if (stream === this._stream) this._stop();
  }

  /** The captions or the model were changed in the settings. */
  preferencesChanged() {
    this._stop();
    this._unload();
    if (!this._isWanted) this._onEvent({ kind: "captions", state: "off" });
    else if (this._call !== null) this._start();
    else this._load();
  }

  async _start() {
    const call = this._call;
    if (!(await this._load()) || call !== this._call || this._stream !== null) return;
    this._stream = this._transcriber.stream(OPTIONS);
    const resampler = new Resampler(RATE_HZ, SAMPLE_RATE_HZ);
    const clock = new StreamClock(SAMPLE_RATE_HZ);
    this._clock = clock;
    call.port.onmessage = ({ data }) => {
      const samples = resampler.process(data.samples).slice(); // they are kept
      clock.push(samples.length, performance.now());
      this._stream?.push(samples);
    };
    call.setPortEnabled(true);
  }

  _stop() {
    if (this._stream === null) return;
    const wasFinishing = this._isFinishing;
    this._call?.setPortEnabled(false);
    this._stream.stop();
    this._stream = null;
    this._sendText(this._openText, true);
    if (wasFinishing) this._onEvent(this._on);
  }

  _load() {
    this._loading ??= this._openModel();
    return this._loading;
  }

  async _openModel() {
    const loadId = this._loadId;
    let Transcriber;
    let model;
    try {
      model = await this._chooseModel();
      if (model !== null) ({ Transcriber } = await import("../../asr/transcriber.js")); // loaded on demand
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // not of an import: the server has gone
      if (loadId === this._loadId) this._onNotLoaded();
      return false;
    }
    if (loadId !== this._loadId) return false;
    if (model === null) {
      this._loading = null; // a model may be stored by the next call
      this._onEvent({ kind: "captions", state: "none_stored" });
      return false;
    }
    this._onEvent({ kind: "captions", state: "loading" });
    const { name, revision } = model;
    const transcriber = new Transcriber({
      onEvent: (event) => {
        if (transcriber === this._transcriber) this._onEngineEvent(event);
      },
    });
    this._transcriber = transcriber;
    try {
      const { device } = await transcriber.load({ model: name, revision, device: "auto" });
      if (transcriber !== this._transcriber) return false;
      this._on = { kind: "captions", state: "on", model: name, device };
      this._onEvent(this._on);
      return true;
    } catch (error) {
      if (transcriber !== this._transcriber) return false;
      this._fail(error);
      return false;
    }
  }

  /** Tried again with the next call; reported where captions were asked for. */
  _onNotLoaded() {
    this._loading = null;
    if (this._preferences.captions !== "whisper") return;
    const message = "part of the page could not be loaded.";
    this._onEvent({ kind: "captions", state: "not_ready", why: "not_loaded", message });
  }

  /** The model of the preferences; with `auto` or without a choice one that is stored already, or else null. */
  async _chooseModel() {
    const chosen = MODELS.find((model) => model.name === this._preferences.captionsModel);
    const isAsked = this._preferences.captions === "whisper";
    if (isAsked && chosen !== undefined) return chosen;
    const { storedModel } = await import("../../asr/model/load-plan.js"); // not needed to show the page
    const others = MODELS.filter((model) => model !== chosen);
    return (await storedModel(chosen === undefined ? others : [chosen, ...others])) ?? (isAsked ? MODELS[0] : null);
  }

  _unload() {
    this._loadId += 1;
    this._transcriber?.close();
    this._transcriber = null;
    this._loading = null;
  }

  _onEngineEvent(event) {
    switch (event.type) {
      case "progress":
        this._onProgress(event);
        return;
      case "partial":
        this._sendText(event.text, false, this._clock.timeOf(event.start));
        return;
      case "utterance":
        this._sendText(event.text, true, this._clock.timeOf(event.start));
        return;
      case "dropped":
        if (event.what === "window") this._sendText(this._openText, true); // keep the text so far
        this._onEvent({ kind: "captions", state: "behind" });
        return;
      case "error":
        this._fail(event.error);
        return;
      default:
    }
  }

  _onProgress({ file, loaded, total }) {
    this._files.set(file, { loaded, total });
    const sum = (name) => [...this._files.values()].reduce((bytes, one) => bytes + (one[name] ?? 0), 0);
    this._onEvent({ kind: "captions", state: "loading", loaded: sum("loaded"), total: sum("total") });
  }

  /** `spokenMs`: when it began to be spoken; by default, when the open utterance did. */
  _sendText(text, final, spokenMs = this._openMs) {
    const caption = { text: text.trim(), final };
    const isEmpty = caption.text === "" && this._openText === "";
    this._openText = final ? "" : caption.text;
    this._openMs = final ? null : spokenMs;
    if (isEmpty) return;
    this._onEvent({ kind: "user_text", ...caption, spokenMs });
    this._call?.send(caption);
  }

  _fail(error) {
    this._stop();
    this._unload();
    const isKnown = error instanceof AsrError;
    if (!isKnown) console.error(error);
    const why = isKnown ? error.code : "crashed";
    this._onEvent({ kind: "captions", state: "not_ready", why, message: error.message });
  }
}
