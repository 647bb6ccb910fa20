/**
 * Turn speech probabilities into speech runs: hysteresis, minimum silence, maximum length.
 *
 * The result does not depend on how the probabilities are batched. Times are samples at 16 kHz, without
 * padding. Source of the rules: faster-whisper's `get_speech_timestamps`, after the Silero project's.
 */

export const RATE_HZ = 16_000;
export const STEP_SAMPLES = 512;
const SPLIT_SILENCE_SAMPLES = 0.098 * RATE_HZ; // a shorter pause is not used to split a long run

export class SpeechSegmenter {
  constructor(vad) {
    this._threshold = vad.threshold;
    this._negThreshold = vad.neg_threshold;
    this._padSamples = samplesIn(vad.speech_pad_ms);
    this._minSamples = samplesIn(vad.min_speech_duration_ms);
    this._minSilenceSamples = samplesIn(vad.min_silence_duration_ms);
    this._maxSamples = vad.max_speech_duration_s * RATE_HZ - STEP_SAMPLES - 2 * this._padSamples;
    this._position = 0;
    this._reset(null);
  }

  /** Where the current run started; null in silence. */
  get start() {
    return this._start;
  }

  /** The number of samples processed. */
  get position() {
    return this._position;
  }

  /** Add the probability for the next 512 samples. → the run {start, end} that ended here, or null. */
  push(probability) {
    const at = this._position;
    this._position += STEP_SAMPLES;
    if (probability >= this._threshold) {
      if (this._silenceStart !== null) {
        this._silenceStart = null;
        if (this._pauseStart !== null) this._resumedAt ??= at;
      }
      if (this._start === null) {
        this._reset(at);
        return null;
      }
    }
    if (this._start === null) return null;
    if (at - this._start > this._maxSamples) {
      const run = this._split(at);
      if (this._start !== null && probability < this._negThreshold) this._silenceStart = at;
      return run;
    }
    if (probability >= this._negThreshold) return null;
    this._silenceStart ??= at;
    if (at - this._silenceStart > SPLIT_SILENCE_SAMPLES) {
      this._pauseStart = this._silenceStart;
      this._resumedAt = null;
    }
    return at - this._silenceStart < this._minSilenceSamples ? null : this._endRun(this._silenceStart, null);
  }

  /** End the audio after `samples`. → the run that was still open, or null. */
  flush(samples) {
    return this._start === null ? null : this._endRun(samples, null);
  }

  /** Skip `samples` that were lost; an open run ends before them. → that run, or null. */
  skip(samples) {
    const run = this.flush(this._position);
    this._position += samples;
    return run;
  }

  _split(at) {
    if (this._pauseStart === null) return this._endRun(at, null);
    return this._endRun(this._pauseStart, this._resumedAt);
  }

  _endRun(end, nextStart) {
    const run = { start: this._start, end };
    this._reset(nextStart);
    return end - run.start > this._minSamples ? run : null;
  }

  _reset(start) {
    this._start = start;
    this._silenceStart = null; // where the probability fell below neg_threshold
    this._pauseStart = null; // the last pause at which the run can be split
    this._resumedAt = null; // and where speech resumed after it
  }
}

/** Pad the runs of a whole recording by `padMs`, or by half of the gap between neighbours if that is less. */
export function padRuns(runs, samples, padMs) {
  const pad = samplesIn(padMs);
  return runs.map(({ start, end }, i) => {
    const before = i === 0 ? Infinity : (start - runs[i - 1].end) / 2;
    const after = i === runs.length - 1 ? Infinity : (runs[i + 1].start - end) / 2;
    return {
      start: Math.max(0, start - Math.floor(Math.min(pad, before))),
      end: Math.min(samples, end + Math.floor(Math.min(pad, after))),
    };
  });
}

function samplesIn(ms) {
  return Math.round((ms * RATE_HZ) / 1000);
}
