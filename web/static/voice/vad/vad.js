/**
 * Voice detection runs beside the conversation, never in its way: without its files the page goes on.
 *
 * The page's half: it starts the worker that runs the detector, and says plainly when it cannot.
 */

import { vendored } from "../../asr/model/vendored.js";

export class Vad {
  /**
   * `port` brings the microphone's frames while `listen(true)` holds; `speaking(bool)` is called when the
   * user starts and stops.
   */
  constructor(port, heed, { speaking, listen }) {
    this._port = port;
    this._heed = heed;
    this._speaking = speaking;
    this._listen = listen;
    this._worker = null;
  }

  toggle(wanted) {
    if (wanted) this.start();
    else this.stop();
  }

  start() {
    if (this._worker !== null) {
      this._worker.postMessage({ kind: "run" });
      return;
    }
    this._worker = new Worker(new URL("./vad-worker.js", import.meta.url), { type: "module" });
    this._worker.onmessage = ({ data }) => this._receive(data);
    this._worker.onerror = () => this._receive({ kind: "vad", state: "not_ready", why: "failed" });
    const { runtime, vad: model } = vendored();
    this._worker.postMessage({ kind: "open", assets: { runtime, model }, frames: this._port }, [this._port]);
  }

  stop() {
    this._listen(false);
    this._worker?.postMessage({ kind: "rest" });
    this._heed({ kind: "vad", state: "off" });
  }

  close() {
    this._worker?.terminate();
    this._worker = null;
  }

  _receive(message) {
    if (message.kind === "speaking") {
      this._speaking(message.speaking);
      return;
    }
    this._listen(message.state === "on");
    this._heed(message);
  }
}
