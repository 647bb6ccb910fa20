/**
 * Voice activity detection, the page's side.
 *
 * By level, which the connection worker does with the frames that it sends, or by the Silero model in a worker of its
 * own, whose files are optional: without them it is by level.
 */

import { vendored } from "../../asr/model/vendored.js";

export class Vad {
  /**
   * `port` delivers captured frames while `setPortEnabled(true)`; `setLevelDetection(true)`: detection by level;
   * `onSpeaking(speaking)` is called when the user starts or stops speaking, noticed by the model.
   */
  constructor(port, onEvent, { onSpeaking, setPortEnabled, setLevelDetection }) {
    this._port = port;
    this._onEvent = onEvent;
    this._onSpeaking = onSpeaking;
    this._setPortEnabled = setPortEnabled;
    this._setLevelDetection = setLevelDetection;
    this._worker = null;
    this._isPaused = true;
  }

  /** `detector`: off, level or silero. */
  use(detector) {
    if (detector === "off") {
      this.stop();
      return;
    }
    if (detector === "level") {
      this._pauseWorker();
      this._setLevelDetection(true);
      this._onEvent({ kind: "vad", state: "on" });
      return;
    }
    this._setLevelDetection(false);
    this._isPaused = false;
    const { runtime, vad: model } = vendored();
    const assets = { runtime, model };
    if (this._worker !== null) {
      this._worker.postMessage({ kind: "resume" });
      this._worker.postMessage({ kind: "use", detector, assets });
      return;
    }
    this._worker = new Worker(new URL("./vad-worker.js", import.meta.url), { type: "module" });
    this._worker.onmessage = ({ data }) => this._onMessage(data);
    this._worker.onerror = () => {
      this._onMessage({ kind: "vad", state: "not_ready", why: "failed" });
      this._pauseWorker();
      this._setLevelDetection(true);
    };
    this._worker.postMessage({ kind: "open", detector, assets, frames: this._port }, [this._port]);
  }

  stop() {
    this._pauseWorker();
    this._setLevelDetection(false);
    this._onEvent({ kind: "vad", state: "off" });
  }

  _pauseWorker() {
    this._isPaused = true;
    this._setPortEnabled(false);
    this._worker?.postMessage({ kind: "pause" });
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
    if (this._isPaused) return; // sent before it was
    this._setPortEnabled(message.state !== "off");
    this._onEvent(message);
  }
}
