/**
 * One call, from pressing the button to hanging up: audio, connection, VAD and captions, opened and closed together.
 *
 * `onEvent(event)` receives plain objects with a `kind`: `captured` and `played` from the worklets; the protocol's
 * events, `connecting`, `lost`, `connection_stats` and `ended` from the connection; `audio_state` and `speaking`
 * from here. How the page shows them is decided by the views.
 */

import { AudioIO } from "./audio/audio-io.js";
import { Vad } from "./vad/vad.js";

export class Call {
  /**
   * Open the audio path and start connecting; without `microphone` only recordings are sent. Throws AudioError; then
   * everything is closed again, and also if it is no longer wanted when the browser has asked the user: → null.
   */
  static async open({ url, preferences, echo, microphone, captions, isWanted, onEvent }) {
    const connection = startConnectionWorker(); // it loads while the microphone opens, and connects after that
    try {
      const audio = await AudioIO.open(preferences, onEvent, { microphone });
      if (!isWanted()) {
        await audio.close();
        connection.worker.terminate();
        return null;
      }
      return new Call({ url, preferences, echo, captions, onEvent, audio, connection });
    } catch (error) {
      connection.worker.terminate();
      throw error;
    }
  }

  constructor({ url, preferences, echo, captions, onEvent, audio, connection }) {
    this._onEvent = onEvent;
    this._audio = audio;
    this._preferences = preferences;
    this._bargeIn = preferences.bargeIn;
    this._isSpeaking = false;
    this._captions = captions;
    this._ended = new Promise((resolve) => {
      this._resolveEnded = resolve;
    });
    this._connection = connection.worker;
    this._connection.onmessage = ({ data }) => this._onConnectionEvent(data);
    connection.failed.then(() => this._onConnectionEvent({ kind: "ended", why: "worker_failed" }));
    const vadPort = new MessageChannel();
    const captionPort = new MessageChannel();
    const ports = { vad: vadPort.port1, captions: captionPort.port1 };
    const persona = { voice: preferences.voice, role: preferences.role };
    let open = { kind: "open", url, echo, settings: preferences.sampling, persona, ports };
    audio.connect((audioPorts) => {
      const message = { kind: "audio_ports", ...open, ...audioPorts };
      this._connection.postMessage(message, [...Object.values(audioPorts), ...Object.values(message.ports ?? {})]);
      open = null; // after that the audio path may only change
    });
    this._vad = new Vad(vadPort.port2, onEvent, {
      onSpeaking: (speaking) => this._onSpeaking(speaking),
      setPortEnabled: (enabled) => this._connection.postMessage({ kind: "enable_port", name: "vad", enabled }),
      setLevelDetection: (enabled) => this._connection.postMessage({ kind: "detect_speech", enabled }),
    });
    this._captionPort = captionPort.port2;
    this._isEcho = echo;
    this._isListening = false; // speech detection and captions have been started
    onEvent({ kind: "audio_state", ...audio.describe() });
  }

  /** Resolves when the call is over, whichever side ended it. */
  get ended() {
    return this._ended;
  }

  mute(muted) {
    this._audio.mute(muted);
  }

  /** Play a recorded question into the call; resolves at its end. */
  ask(url) {
    return this._audio.ask(url);
  }

  record(recording) {
    this._audio.record(recording);
  }

  configure(settings) {
    this._connection.postMessage({ kind: "configure", settings });
  }

  /** Reconnect at once, if it waits for the next attempt. */
  tryNow() {
    this._connection.postMessage({ kind: "try_now" });
  }

  resume() {
    return this._audio.resume();
  }

  /** Apply a changed preference during the call. Throws AudioError if a device cannot be opened. */
  async applyPreferences(preferences, changed) {
    this._bargeIn = preferences.bargeIn;
    if (changed === "bargeIn") this._updateBargeIn();
    if (changed === "volume") this._audio.setVolume(preferences.volume);
    if (changed === "outputId") await this._audio.setOutput(preferences.outputId);
    if (changed === "microphone" && this._audio.hasMicrophone) await this.openMicrophone(preferences);
    this._preferences = preferences;
    if (changed === "vad" && this._isListening) this._vad.use(preferences.vad);
  }

  /** Switch the microphone, or turn it on. Throws AudioError. */
  async openMicrophone(preferences) {
    await this._audio.switchMicrophone(preferences);
    this._onEvent({ kind: "audio_state", ...this._audio.describe() });
    this._onEvent({ kind: "microphone_opened" });
  }

  /** End the call with a closing handshake; see `ended`. */
  close() {
    this._captions.detach(); // sends the last caption before `bye`
    this._connection.postMessage({ kind: "close" });
  }

  _onSpeaking(speaking) {
    this._isSpeaking = speaking;
    this._onEvent({ kind: "speaking", speaking });
    this._connection.postMessage({ kind: "vad", speaking });
    this._updateBargeIn();
  }

  _updateBargeIn() {
    this._audio.setBargeIn(this._isSpeaking && this._bargeIn !== "off" ? this._bargeIn : null);
  }

  /** Speech detection and captions, once: their modules would delay a connection that is being made. */
  _startListeners() {
    if (this._isEcho || this._isListening) return;
    this._isListening = true;
    this._vad.use(this._preferences.vad);
    this._captions.attach(this._captionPort, {
      send: ({ text, final }) => this._connection.postMessage({ kind: "caption", text, final }),
      setPortEnabled: (enabled) => this._connection.postMessage({ kind: "enable_port", name: "captions", enabled }),
    });
  }

  _onConnectionEvent(event) {
    if (event.kind === "speaking") this._onSpeaking(event.speaking);
    else if (event.kind === "ended") this._end(event);
    else this._onEvent(event);
    if (event.kind === "ready" || event.kind === "queued") this._startListeners();
  }

  async _end(event) {
    this._vad.close();
    this._captions.detach();
    this._onEvent({ kind: "speaking", speaking: false });
    this._connection.terminate();
    await this._audio.close();
    this._resolveEnded();
    this._onEvent(event);
  }
}

/** {worker, failed}: `failed` resolves if its script cannot be loaded or run, however soon that happens. */
function startConnectionWorker() {
  const worker = new Worker(new URL("./protocol/connection-worker.js", import.meta.url), { type: "module" });
  const failed = new Promise((resolve) => {
    worker.onerror = resolve;
  });
  return { worker, failed };
}
