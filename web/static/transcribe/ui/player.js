/**
 * Plays the transcribed audio from any word: a file as it is, the microphone from a recording in memory.
 *
 * Of the microphone, at most one hour is kept.
 */

import { quantize, wav } from "../../voice/audio/wav.js";
import { SAMPLE_RATE_HZ } from "../data/audio-file.js";

const MAX_SAMPLES = 3600 * SAMPLE_RATE_HZ;

export class Player {
  /**
   * `onTime(seconds)`: the playback position; `onError()`: the browser can decode the audio but not play it;
   * `onFull()`: the limit of the recording was reached.
   */
  constructor({ onTime, onError, onFull }) {
    this._onError = onError;
    this._onFull = onFull;
    this._root = document.getElementById("playing");
    this._audio = document.getElementById("player");
    this._url = null;
    this._chunks = [];
    this._recordedSamples = 0;
    const report = () => onTime(this._audio.currentTime);
    const follow = () => {
      report();
      if (!this._audio.paused) requestAnimationFrame(follow);
    };
    this._audio.addEventListener("play", follow);
    for (const kind of ["seeking", "pause", "timeupdate"]) this._audio.addEventListener(kind, report);
  }

  /** Remove the current audio. */
  clear() {
    this._audio.pause();
    this._audio.removeAttribute("src");
    this._audio.load();
    if (this._url !== null) URL.revokeObjectURL(this._url);
    this._url = null;
    this._chunks = [];
    this._recordedSamples = 0;
    this._root.hidden = true;
  }

  /** Play a File or Blob. */
  load(blob) {
    this._url = URL.createObjectURL(blob);
    this._audio.src = this._url;
    this._root.hidden = false;
  }

  /** Add microphone audio to the recording; beyond an hour it is not kept. */
  append(samples) {
    if (this._recordedSamples >= MAX_SAMPLES) return;
    this._chunks.push(quantize(samples));
    this._recordedSamples += samples.length;
    if (this._recordedSamples >= MAX_SAMPLES) this._onFull();
  }

  /** Make the recording available for playback. */
  loadRecording() {
    if (this._recordedSamples > 0) this.load(wav(this._chunks, { rateHz: SAMPLE_RATE_HZ, channels: 1 }));
  }

  async play(seconds) {
    if (this._url === null) return;
    this._audio.currentTime = seconds;
    try {
      await this._audio.play();
    } catch (error) {
      if (error.name === "NotSupportedError") this._onError();
      else if (error.name !== "AbortError") throw error; // paused or restarted meanwhile
    }
  }

  seek(seconds) {
    if (this._url !== null) this._audio.currentTime = seconds;
  }
}
