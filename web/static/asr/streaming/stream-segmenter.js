/**
 * Split a stream into utterances, reporting each while it grows; the audio held in memory is bounded.
 *
 * `vad` gives the probability of speech for each 512 samples (16 kHz). `emit` is called with:
 * {kind: "speech", start}: an utterance started; {kind: "extended", start, samples}: its new audio;
 * {kind: "window", start, end, samples}: it ended; {kind: "discarded"}: it was too short to be speech.
 * Times are samples since the start of the stream; windows include the padding.
 */

import { RATE_HZ, STEP_SAMPLES, SpeechSegmenter } from "./speech-segmenter.js";

export class StreamSegmenter {
  constructor(vad, parameters, emit) {
    this._vad = vad;
    this._segmenter = new SpeechSegmenter(parameters);
    this._emit = emit;
    this._padSamples = Math.round((parameters.speech_pad_ms * RATE_HZ) / 1000);
    const { max_speech_duration_s, min_silence_duration_ms, speech_pad_ms } = parameters;
    const maxDurationS = max_speech_duration_s + (min_silence_duration_ms + 2 * speech_pad_ms) / 1000 + 1;
    this._buffer = new Float32Array(Math.ceil(maxDurationS * RATE_HZ));
    this._bufferStart = 0; // the stream position of _buffer[0]
    this._bufferEnd = 0; // and of the sample after its last
    this._windowsEnd = 0; // everything before belongs to windows already emitted
    this._utteranceStart = null; // start of the current utterance, padding included
    this._extendedTo = 0; // how much of it was emitted
  }

  /** Add any number of samples. */
  async push(samples) {
    for (let at = 0; at < samples.length; at += STEP_SAMPLES) {
      const step = samples.subarray(at, at + STEP_SAMPLES);
      this._append(step);
      for (const probability of await this._vad.process(step)) this._onRun(this._segmenter.push(probability));
    }
    this._emitExtension();
  }

  /** Skip `samples` that were lost: time advances, and an open utterance ends. */
  skip(samples) {
    this._onRun(this._segmenter.skip(samples));
    this._vad.reset();
    this._bufferStart = this._bufferEnd = this._windowsEnd = this._bufferEnd + samples;
  }

  /** End the stream. */
  flush() {
    this._onRun(this._segmenter.flush(this._bufferEnd));
  }

  _append(step) {
    if (this._bufferEnd - this._bufferStart + step.length > this._buffer.length) {
      const padding = this._bufferEnd - this._padSamples - 2 * STEP_SAMPLES;
      const keepFrom = this._utteranceStart ?? Math.max(this._windowsEnd, padding);
      this._buffer.copyWithin(0, keepFrom - this._bufferStart, this._bufferEnd - this._bufferStart);
      this._bufferStart = keepFrom;
    }
    this._buffer.set(step, this._bufferEnd - this._bufferStart);
    this._bufferEnd += step.length;
  }

  /** Emit what follows from the segmenter: `run` ended here, or null. */
  _onRun(run) {
    if (run !== null) {
      const start = this._utteranceStart ?? this._paddedStart(run.start);
      // A run split at a pause is followed by another one at once: each gets half of the pause.
      const { start: nextStart, position } = this._segmenter;
      const end = Math.min(
        run.end + this._padSamples,
        nextStart === null ? Math.max(run.end, position) : (run.end + nextStart) >> 1,
      );
      this._emit({ kind: "window", start, end, samples: this._slice(start, end) });
      this._windowsEnd = end;
      this._utteranceStart = null;
    } else if (this._utteranceStart !== null && this._segmenter.start === null) {
      this._emit({ kind: "discarded" });
      this._utteranceStart = null;
    }
    if (this._utteranceStart === null && this._segmenter.start !== null) {
      this._utteranceStart = this._extendedTo = this._paddedStart(this._segmenter.start);
      this._emit({ kind: "speech", start: this._segmenter.start });
    }
  }

  _paddedStart(start) {
    return Math.max(this._windowsEnd, this._bufferStart, start - this._padSamples);
  }

  _emitExtension() {
    if (this._utteranceStart === null || this._extendedTo === this._bufferEnd) return;
    const samples = this._slice(this._extendedTo, this._bufferEnd);
    this._emit({ kind: "extended", start: this._utteranceStart, samples });
    this._extendedTo = this._bufferEnd;
  }

  _slice(start, end) {
    return this._buffer.slice(start - this._bufferStart, end - this._bufferStart);
  }
}
