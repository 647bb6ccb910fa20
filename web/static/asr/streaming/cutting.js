/**
 * Speech is what the detector is sure of, until it has been unsure for long enough; no run is too long.
 *
 * The same runs come out however the probabilities come in. Times are samples at 16 kHz, without padding.
 * Source of the rules: faster-whisper's `get_speech_timestamps`, after the Silero project's.
 */

export const RATE_HZ = 16_000;
export const STEP_SAMPLES = 512;
const SPLIT_SILENCE_SAMPLES = 0.098 * RATE_HZ; // where a run that is too long is cut

export class SpeechCutter {
  constructor(vad) {
    this._threshold = vad.threshold;
    this._negative = vad.neg_threshold;
    this._padSamples = samplesIn(vad.speech_pad_ms);
    this._shortestSamples = samplesIn(vad.min_speech_duration_ms);
    this._silenceSamples = samplesIn(vad.min_silence_duration_ms);
    this._longestSamples = vad.max_speech_duration_s * RATE_HZ - STEP_SAMPLES - 2 * this._padSamples;
    this._at = 0;
    this._restart(null);
  }

  /** Where the run that goes on began; null in silence. */
  get start() {
    return this._start;
  }

  /** How many samples it knows of. */
  get until() {
    return this._at;
  }

  /** Take the probability of the next 512 samples; the run {start, end} that it ended, or null. */
  push(probability) {
    const at = this._at;
    this._at += STEP_SAMPLES;
    if (probability >= this._threshold) {
      if (this._quietFrom !== null) {
        this._quietFrom = null;
        if (this._pauseFrom !== null) this._resumedAt ??= at;
      }
      if (this._start === null) {
        this._restart(at);
        return null;
      }
    }
    if (this._start === null) return null;
    if (at - this._start > this._longestSamples) {
      const run = this._split(at);
      if (this._start !== null && probability < this._negative) this._quietFrom = at;
      return run;
    }
    if (probability >= this._negative) return null;
    this._quietFrom ??= at;
    if (at - this._quietFrom > SPLIT_SILENCE_SAMPLES) [this._pauseFrom, this._resumedAt] = [this._quietFrom, null];
    return at - this._quietFrom < this._silenceSamples ? null : this._close(this._quietFrom, null);
  }

  /** The sound ends after `samples`: the run that went on until there, or null. */
  flush(samples) {
    return this._start === null ? null : this._close(samples, null);
  }

  /** Nothing was heard for `samples`; a run that went on ends before them. */
  skip(samples) {
    const run = this.flush(this._at);
    this._at += samples;
    return run;
  }

  _split(at) {
    if (this._pauseFrom === null) return this._close(at, null);
    return this._close(this._pauseFrom, this._resumedAt);
  }

  _close(end, nextStart) {
    const run = { start: this._start, end };
    this._restart(nextStart);
    return end - run.start > this._shortestSamples ? run : null;
  }

  _restart(start) {
    this._start = start;
    this._quietFrom = null; // where the detector became unsure
    this._pauseFrom = null; // the last pause in which the run could be cut
    this._resumedAt = null; // and where speech went on after it
  }
}

/** The runs of a whole recording, each with silence around it as far as its neighbours leave some. */
export function padded(runs, samples, padMs) {
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
