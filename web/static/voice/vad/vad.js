/**
 * Voice activity detection, the page's side: starts the worker and reports its state.
 *
 * By level, which needs nothing, or by the Silero model, whose files are optional: without them it is by level.
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

  /** `detector`: off, level or silero. */
  use(detector) {
    if (detector === "off") {
      this.stop();
      return;
    }
    const { runtime, vad: model } = vendored();
    const assets = { runtime, model };
    if (this._worker !== null) {
      this._worker.postMessage({ kind: "resume" });
      this._worker.postMessage({ kind: "use", detector, assets });
      return;
    }
    this._worker = new Worker(new URL("./vad-worker.js", import.meta.url), { type: "module" });
    this._worker.onmessage = ({ data }) => this._onMessage(data);
    this._worker.onerror = () => this._onMessage({ kind: "vad", state: "not_ready", why: "failed" });
    this._worker.postMessage({ kind: "open", detector, assets, frames: this._port }, [this._port]);
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
    this._setPortEnabled(message.state !== "off");
    this._onEvent(message);
  }
}
