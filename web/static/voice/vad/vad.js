/**
 * Voice activity detection, the page's side: starts the worker and reports its state.
 *
 * Optional: without the vendored files the call works, just without VAD.
 */

import { vendored } from "../../asr/model/vendored.js";

export class Vad {
  /**
   * `port` delivers captured frames while `setPortEnabled(true)`; `onSpeaking(speaking)` is called when the user
   * starts or stops speaking.
   */
  constructor(port, onEvent, { onSpeaking, setPortEnabled }) {
    this._port = port;
    this._onEvent = onEvent;
    this._onSpeaking = onSpeaking;
    this._setPortEnabled = setPortEnabled;
    this._worker = null;
  }

  setEnabled(enabled) {
    if (enabled) this.start();
    else this.stop();
  }

  start() {
    if (this._worker !== null) {
      this._worker.postMessage({ kind: "resume" });
      return;
    }
    this._worker = new Worker(new URL("./vad-worker.js", import.meta.url), { type: "module" });
    this._worker.onmessage = ({ data }) => this._onMessage(data);
    this._worker.onerror = () => this._onMessage({ kind: "vad", state: "not_ready", why: "failed" });
    const { runtime, vad: model } = vendored();
    this._worker.postMessage({ kind: "open", assets: { runtime, model }, frames: this._port }, [this._port]);
  }

  stop() {
    this._setPortEnabled(false);
    this._worker?.postMessage({ kind: "pause" });
    this._onEvent({ kind: "vad", state: "off" });
  }

  close() {
    this._worker?.terminate();
    this._worker = null;
  }

  _onMessage(message) {
    if (message.kind === "speaking") {
      this._onSpeaking(message.speaking);
      return;
    }
    this._setPortEnabled(message.state === "on");
    this._onEvent(message);
  }
}
