/**
 * Captions of the user's speech by Whisper, whose module is loaded only where it can be used: Whisper was chosen, or
 * (`auto`) a model is stored in this browser.
 */

import { CACHE_NAME } from "../../asr/model/cache-name.js";
import { OnDemand } from "../on-demand.js";

export class Captions {
  constructor(preferences, { onEvent }) {
    this._preferences = preferences;
    this._onEvent = onEvent;
    this._call = null; // {port, channel} of the current call
    this._whisper = new OnDemand(
      async () => {
        const { WhisperCaptions } = await import("./whisper-captions.js");
        return new WhisperCaptions(preferences, { onEvent });
      },
      () => this._onNotLoaded(),
    );
  }

  /** Whether the user's speech is being transcribed. */
  get isActive() {
    return Boolean(this._whisper.loaded?.isActive);
  }

  /** A call started; see WhisperCaptions. */
  async attach(port, channel) {
    const call = { port, channel };
    this._call = call;
    const whisper = await this._load();
    if (call === this._call) whisper?.attach(port, channel);
  }

  /** The call ended. */
  detach() {
    this._whisper.loaded?.detach();
    this._call?.port.close();
    this._call = null;
  }

  /** The captions or the model were changed in the settings. */
  async preferencesChanged() {
    const isNew = this._whisper.loaded === null;
    const whisper = await this._load();
    if (isNew && this._call !== null) whisper?.attach(this._call.port, this._call.channel);
    else whisper?.preferencesChanged();
  }

  /** The module, once it was needed; null while it is not. */
  async _load() {
    if (this._whisper.loaded !== null) return this._whisper.loaded;
    const { captions } = this._preferences;
    if (captions === "whisper" || (captions === "auto" && (await isAnyModelStored()))) return this._whisper.get();
    this._onEvent({ kind: "captions", state: captions === "auto" ? "none_stored" : "off" });
    return null;
  }

  /** Tried again with the next call; reported where captions were asked for. */
  _onNotLoaded() {
    if (this._preferences.captions !== "whisper") return;
    const message = "part of the page could not be loaded.";
    this._onEvent({ kind: "captions", state: "not_ready", why: "not_loaded", message });
  }
}

/** Whether a model may be stored here; WhisperCaptions finds out which. */
async function isAnyModelStored() {
  try {
    return globalThis.caches !== undefined && (await caches.has(CACHE_NAME));
  } catch {
    return false; // storage is switched off
  }
}
