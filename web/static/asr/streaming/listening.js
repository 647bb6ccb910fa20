/**
 * Sound comes in, utterances go out, and each is told while it grows; what is held is bounded.
 *
 * `detector` gives the probability of speech for each 512 samples (16 kHz); `tell` hears of
 * {kind: "speech", start}: an utterance began; {kind: "grown", start, samples}: what is new of it;
 * {kind: "window", start, end, samples}: it is over; {kind: "nothing"}: it was too short to be speech.
 * Times are samples since the beginning, with the padding.
 */

import { RATE_HZ, STEP_SAMPLES, SpeechCutter } from "./cutting.js";

export class Listening {
  constructor(detector, vad, tell) {
    this._detector = detector;
    this._cutter = new SpeechCutter(vad);
    this._tell = tell;
    this._padSamples = Math.round((vad.speech_pad_ms * RATE_HZ) / 1000);
    const longest = vad.max_speech_duration_s + (vad.min_silence_duration_ms + 2 * vad.speech_pad_ms) / 1000 + 1;
    this._held = new Float32Array(Math.ceil(longest * RATE_HZ));
    this._from = 0; // the sample that _held begins with
    this._until = 0; // and the one after its last
    this._free = 0; // before this, all belongs to windows that are told
    this._open = null; // where the utterance that goes on begins, padding included
    this._grown = 0; // how far it was told
  }

  /** Take any number of samples. */
  async hear(samples) {
    for (let at = 0; at < samples.length; at += STEP_SAMPLES) {
      const step = samples.subarray(at, at + STEP_SAMPLES);
      this._hold(step);
      for (const probability of await this._detector.hear(step)) this._settle(this._cutter.push(probability));
    }
    this._grow();
  }

  /** `samples` were lost: time goes on without them, and an utterance ends. */
  skip(samples) {
    this._settle(this._cutter.skip(samples));
    this._detector.restart();
    this._from = this._until = this._free = this._until + samples;
  }

  /** The sound ends here. */
  flush() {
    this._settle(this._cutter.flush(this._until));
  }

  _hold(step) {
    if (this._until - this._from + step.length > this._held.length) {
      const needed = this._open ?? Math.max(this._free, this._until - this._padSamples - 2 * STEP_SAMPLES);
      this._held.copyWithin(0, needed - this._from, this._until - this._from);
      this._from = needed;
    }
    this._held.set(step, this._until - this._from);
    this._until += step.length;
  }

  /** `run` is what the cutter says is over, or null. */
  _settle(run) {
    if (run !== null) {
      const start = this._open ?? this._padded(run.start);
      // A run that was cut in a pause is followed by another one: each has half of the pause.
      const { start: follows, until } = this._cutter;
      const end = Math.min(
        run.end + this._padSamples,
        follows === null ? Math.max(run.end, until) : (run.end + follows) >> 1,
      );
      this._tell({ kind: "window", start, end, samples: this._cut(start, end) });
      this._free = end;
      this._open = null;
    } else if (this._open !== null && this._cutter.start === null) {
      this._tell({ kind: "nothing" });
      this._open = null;
    }
    if (this._open === null && this._cutter.start !== null) {
      this._open = this._grown = this._padded(this._cutter.start);
      this._tell({ kind: "speech", start: this._cutter.start });
    }
  }

  _padded(start) {
    return Math.max(this._free, this._from, start - this._padSamples);
  }

  _grow() {
    if (this._open === null || this._grown === this._until) return;
    this._tell({ kind: "grown", start: this._open, samples: this._cut(this._grown, this._until) });
    this._grown = this._until;
  }

  _cut(start, end) {
    return this._held.slice(start - this._from, end - this._from);
  }
}
