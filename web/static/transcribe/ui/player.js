/**
 * What was transcribed can be heard again, from any word on: a file as it is, the microphone as it was heard.
 *
 * The microphone's sound stays in this page's memory, an hour of it at most.
 */

import { quantize, wav } from "../../voice/audio/wav.js";
import { RATE_HZ } from "../data/decoding.js";

const LIMIT_SAMPLES = 3600 * RATE_HZ;

export class Player {
  /**
   * `moved(seconds)` is called as it plays; `failed()` where the browser understands a sound but cannot play
   * it; `full()` once as much was heard as is kept.
   */
  constructor({ moved, failed, full }) {
    this._failed = failed;
    this._full = full;
    this._place = document.getElementById("playing");
    this._audio = document.getElementById("player");
    this._url = null;
    this._heard = [];
    this._heardSamples = 0;
    const tell = () => moved(this._audio.currentTime);
    const follow = () => {
      tell();
      if (!this._audio.paused) requestAnimationFrame(follow);
    };
    this._audio.addEventListener("play", follow);
    for (const kind of ["seeking", "pause", "timeupdate"]) this._audio.addEventListener(kind, tell);
  }

  /** Nothing to hear for now; what the microphone brings is collected by `hear`. */
  clear() {
    this._audio.pause();
    this._audio.removeAttribute("src");
    this._audio.load();
    if (this._url !== null) URL.revokeObjectURL(this._url);
    this._url = null;
    this._heard = [];
    this._heardSamples = 0;
    this._place.hidden = true;
  }

  /** The sound of a File or Blob. */
  load(blob) {
    this._url = URL.createObjectURL(blob);
    this._audio.src = this._url;
    this._place.hidden = false;
  }

  /** More of what the microphone heard; beyond an hour it is not kept. */
  hear(samples) {
    if (this._heardSamples >= LIMIT_SAMPLES) return;
    this._heard.push(quantize(samples));
    this._heardSamples += samples.length;
    if (this._heardSamples >= LIMIT_SAMPLES) this._full();
  }

  /** What the microphone heard so far can be played. */
  loadHeard() {
    if (this._heardSamples > 0) this.load(wav(this._heard, { rateHz: RATE_HZ, channels: 1 }));
  }

  async play(seconds) {
    if (this._url === null) return;
    this._audio.currentTime = seconds;
    try {
      await this._audio.play();
    } catch (error) {
      if (error.name === "NotSupportedError") this._failed();
      else if (error.name !== "AbortError") throw error; // paused, or played from elsewhere, meanwhile
    }
  }

  seek(seconds) {
    if (this._url !== null) this._audio.currentTime = seconds;
  }
}
