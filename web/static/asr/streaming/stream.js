/**
 * A stream never waits for Whisper: what it cannot keep up with is left out, and said to be.
 *
 * An utterance that goes on is heard again and again while Whisper has nothing else to do (partials); one
 * that is over is decoded once, in order (finals). Finals go first. At most four wait: then the oldest is
 * dropped. Sound that the ear has not yet heard is at most 30 s: then it is dropped.
 */

import { Agreement } from "./agreement.js";
import { RATE_HZ } from "./cutting.js";
import { Transcription } from "../engine/transcription.js";
import { SpeechWindow } from "../engine/windows.js";

const WAITING_WINDOWS = 4;
const UNHEARD_SAMPLES = 30 * RATE_HZ;
const PARTIAL_AFTER_SAMPLES = 0.8 * RATE_HZ; // of new sound

export class Stream {
  constructor(ear, scribe, options, onEvent) {
    this._ear = ear;
    this._scribe = scribe;
    this._onEvent = onEvent;
    this._options = options;
    this._transcription = new Transcription(scribe, options, {
      onSegment: (segment) => this._emit({ type: "final", segment }),
      onDropped: (what) => this._emit({ type: "dropped", what: "window", ...what }),
    });
    this._windows = [];
    this._unheard = 0;
    this._lost = 0; // samples that were dropped and of which the ear does not know yet
    this._isBusy = false;
    this._isStopped = false;
    this._idle = [];
    this._forget();
    this._begun = ear.begin(options.vad_parameters, (message) => this._heed(message));
    this._begun.catch((error) => this._fail(error));
  }

  /** Samples at 16 kHz, any number; they are copied. */
  push(samples) {
    if (this._isStopped || samples.length === 0) return;
    if (this._unheard + samples.length > UNHEARD_SAMPLES) {
      if (this._lost === 0) this._emit({ type: "dropped", what: "sound", reason: "the detector is behind" });
      this._lost += samples.length;
      return;
    }
    this._unheard += samples.length;
    const [lost, copy] = [this._lost, samples.slice()];
    this._lost = 0;
    this._begun.then(
      () => {
        if (this._isStopped) return;
        if (lost > 0) this._ear.skip(lost);
        this._ear.hear(copy);
      },
      () => {},
    );
  }

  /** The utterance that goes on ends here; done when all of it is final. */
  async flush() {
    await this._begun;
    if (this._isStopped) return;
    await this._ear.flush();
    if (this._isBusy || this._windows.length > 0) await new Promise((resolve) => this._idle.push(resolve));
  }

  /** What is not final yet is given up. */
  stop() {
    if (this._isStopped) return;
    this._isStopped = true;
    this._windows = [];
    this._ear.end();
    this._scribe.cancel();
    this._rest();
  }

  _heed(message) {
    if (message.kind === "heard") this._unheard -= message.count;
    else if (message.kind === "speech") this._emit({ type: "speech", start: message.start / RATE_HZ });
    else if (message.kind === "grown") this._grow(message);
    else if (message.kind === "window") this._close(message);
    else if (message.kind === "nothing") this._forget();
    else this._fail(message.error);
    this._work();
  }

  _grow({ start, samples }) {
    this._start = start;
    this._parts.push(samples);
    this._length += samples.length;
  }

  _close({ start, end, samples }) {
    this._forget();
    this._windows.push(new SpeechWindow([{ start, end }], samples));
    if (this._windows.length <= WAITING_WINDOWS) return;
    const { pieces } = this._windows.shift();
    const [piece] = pieces;
    this._emit({
      type: "dropped",
      what: "window",
      start: piece.start / RATE_HZ,
      end: piece.end / RATE_HZ,
      reason: "behind",
    });
  }

  /** No utterance goes on. */
  _forget() {
    this._agreement = new Agreement();
    this._parts = [];
    this._length = 0;
    this._partialAt = 0;
  }

  async _work() {
    if (this._isBusy || this._isStopped) return;
    this._isBusy = true;
    try {
      for (;;) {
        if (this._windows.length > 0) await this._finish(this._windows.shift());
        else if (this._length - this._partialAt >= PARTIAL_AFTER_SAMPLES) await this._guess();
        else break;
        if (this._isStopped) break;
      }
    } catch (error) {
      if (!this._isStopped) this._fail(error);
    }
    this._isBusy = false;
    this._rest();
  }

  async _finish(window) {
    const segments = await this._transcription.take(window);
    const [{ start, end }] = window.pieces;
    const text = segments.map((segment) => segment.text).join("");
    const language = this._transcription.language;
    this._emit({ type: "utterance", start: start / RATE_HZ, end: end / RATE_HZ, text, segments, ...language });
  }

  /** Hear what there is of the utterance that goes on; of no use once it is over. */
  async _guess() {
    const [agreement, start, length] = [this._agreement, this._start, this._length];
    this._partialAt = length;
    const options = { ...this._transcription.optionsNow(), temperature: [0], word_timestamps: false };
    const samples = joined(this._parts, length);
    let result;
    try {
      result = await this._scribe.decode(samples, options);
    } catch (error) {
      if (error.code !== "stalled" && error.code !== "crashed") throw error;
      return;
    }
    if (agreement !== this._agreement || this._isStopped) return;
    const words = result.segments.flatMap(({ text }) => text.match(/\s*\S+/gu) ?? []);
    const end = (start + length) / RATE_HZ;
    this._emit({ type: "partial", ...agreement.push(words), start: start / RATE_HZ, end });
  }

  _fail(error) {
    this._emit({ type: "error", error });
    this.stop();
  }

  _rest() {
    for (const resolve of this._idle.splice(0)) resolve();
  }

  _emit(event) {
    this._onEvent(event);
  }
}

function joined(parts, length) {
  const whole = new Float32Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
