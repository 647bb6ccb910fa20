/**
 * A call is one press of the button to the next: sound, wire and what listens along, opened and closed together.
 *
 * Everything that happens is told to `heed(event)` as a plain object with a `kind`: from the worklets
 * `heard` and `played`, from the wire the protocol's events and `connecting`, `lost`, `wire`, `ended`,
 * from here `sound` and `speaking`. What does not belong here: what the page shows of it.
 */

import { Sound } from "./audio/sound.js";
import { Vad } from "./vad/vad.js";

export class Call {
  /** Open the sound path and start connecting. Throws SoundError; then nothing is left open. */
  static async open({ url, preferences, echo, words, heed }) {
    const sound = await Sound.open(preferences, heed);
    return new Call({ url, preferences, echo, words, heed, sound });
  }

  constructor({ url, preferences, echo, words, heed, sound }) {
    this._heed = heed;
    this._sound = sound;
    this._barge = preferences.barge;
    this._speaking = false;
    this._words = words;
    this._ended = new Promise((resolve) => {
      this._resolve = resolve;
    });
    this._wire = new Worker(new URL("./protocol/connection-worker.js", import.meta.url), { type: "module" });
    this._wire.onmessage = ({ data }) => this._pass(data);
    this._wire.onerror = () => this._pass({ kind: "ended", why: "wire_failed" });
    const up = new MessageChannel();
    const down = new MessageChannel();
    const ears = new MessageChannel();
    const pen = new MessageChannel();
    sound.wire({ capture: up.port1, playback: down.port1 });
    this._wire.postMessage(
      {
        kind: "open",
        url,
        echo,
        settings: preferences.sampling,
        capture: up.port2,
        playback: down.port2,
        listeners: { vad: ears.port1, words: pen.port1 },
      },
      [up.port2, down.port2, ears.port1, pen.port1],
    );
    this._vad = new Vad(ears.port2, heed, {
      speaking: (speaking) => this._heard(speaking),
      listen: (listening) => this._wire.postMessage({ kind: "listen", who: "vad", listening }),
    });
    if (preferences.vad && !echo) this._vad.start();
    if (!echo) {
      words.join(pen.port2, {
        write: ({ text, final }) => this._wire.postMessage({ kind: "words", text, final }),
        listen: (listening) => this._wire.postMessage({ kind: "listen", who: "words", listening }),
      });
    }
    heed({ kind: "sound", ...sound.describe() });
  }

  /** Resolves when the call is over, whoever ended it. */
  get ended() {
    return this._ended;
  }

  mute(muted) {
    this._sound.mute(muted);
  }

  record(recording) {
    this._sound.record(recording);
  }

  configure(settings) {
    this._wire.postMessage({ kind: "configure", settings });
  }

  resume() {
    return this._sound.resume();
  }

  /** Take over what was changed while talking. Throws SoundError when a device cannot be had. */
  async adopt(preferences, changed) {
    this._barge = preferences.barge;
    if (changed === "barge") this._yield();
    if (changed === "outputId") await this._sound.chooseOutput(preferences.outputId);
    if (changed === "microphone") {
      await this._sound.changeMicrophone(preferences);
      this._heed({ kind: "sound", ...this._sound.describe() });
    }
    if (changed === "vad") this._vad.toggle(preferences.vad);
  }

  /** Say goodbye and close; `ended` resolves when the last word was heard. */
  close() {
    this._words.leave(); // its last words go ahead of the goodbye
    this._wire.postMessage({ kind: "close" });
  }

  _heard(speaking) {
    this._speaking = speaking;
    this._heed({ kind: "speaking", speaking });
    this._wire.postMessage({ kind: "vad", speaking });
    this._yield();
  }

  _yield() {
    this._sound.barge(this._speaking && this._barge !== "off" ? this._barge : null);
  }

  async _pass(event) {
    if (event.kind === "ended") {
      this._vad.close();
      this._words.leave();
      this._heed({ kind: "speaking", speaking: false });
      this._wire.terminate();
      await this._sound.close();
      this._resolve();
    }
    this._heed(event);
  }
}
