/**
 * A page transcribes through this: load a model, then a recording or a stream; all else is told as events.
 *
 * Nothing of it runs on the page's own thread but bookkeeping. Events, each with a `type`: progress {file,
 * loaded, total}; segment {segment}; speech {start}; partial {text, stable, start, end}; final {segment};
 * utterance {text, start, end, segments, language}; dropped {what, start?, end?, reason}; recycled {reason};
 * error {error}. Errors are `Trouble`: a code and a sentence.
 */

import { RATE_HZ } from "./streaming/cutting.js";
import { Ear } from "./streaming/vad-client.js";
import { readOptions } from "./options.js";
import { sizeUp } from "./model/plan.js";
import { Scribe } from "./engine/asr-client.js";
import { Stream } from "./streaming/stream.js";
import { Transcription } from "./engine/transcription.js";
import { Trouble } from "./errors.js";
import { needed, vendored } from "./model/vendored.js";
import { SpeechWindow, windowsOf } from "./engine/windows.js";

const HUB = "/api/hf/";

export class Transcriber {
  /** `base`: the hub's address; `vendorUrls` as `vendored()`; `limits` as in `scribe.js`. */
  constructor({ base = HUB, vendorUrls = vendored(), onEvent = () => {}, limits = {} } = {}) {
    this._base = new URL(base, location.href).href;
    this._vendorUrls = vendorUrls;
    this._onEvent = onEvent;
    this._scribe = new Scribe({ onEvent, limits });
    this._ear = new Ear(vendorUrls);
    this._stream = null;
    this._transcription = null; // of the recording
  }

  /** What `load` would do: {device, reason, dtype, files: [{file, bytes, cached}]}. */
  plan(settings) {
    return sizeUp(this._settings(settings));
  }

  /**
   * `{model, revision?, dtype?, device?}`: a name of `models.js` or a repository. → {device, reason, dtype,
   * multilingual, languages, files: [{file, bytes, cached}], fetchMs, loadMs}
   */
  async load(settings) {
    return this._scribe.load({ ...this._settings(settings), vendor: needed(this._vendorUrls) });
  }

  /** A recording, mono at 16 kHz. → {segments, info}; each segment is also an event as it becomes final. */
  async transcribe(pcm16k, options = {}) {
    const read = readOptions(options);
    this._begin(pcm16k);
    const segments = [];
    const transcription = new Transcription(this._scribe, read, {
      onSegment: (segment) => {
        segments.push(segment);
        this._onEvent({ type: "segment", segment });
      },
      onDropped: (what) => this._onEvent({ type: "dropped", what: "window", ...what }),
    });
    this._transcription = transcription;
    try {
      const runs = read.vad_filter ? await this._ear.cut(pcm16k, read.vad_parameters) : null;
      const whole = [new SpeechWindow([{ start: 0, end: pcm16k.length }], pcm16k)];
      for (const window of runs === null ? whole : windowsOf(pcm16k, runs)) await transcription.take(window);
      return { segments, info: infoOf(pcm16k, runs, transcription, read) };
    } finally {
      this._transcription = null;
    }
  }

  /** A stream: {push(samples16k), flush(), stop()}; what it hears comes as events. One at a time. */
  stream(options = {}) {
    const read = readOptions(options, { streaming: true });
    if (!this._scribe.isLoaded) throw new Trouble("closed", "No model is loaded.");
    this._stream?.stop();
    this._stream = new Stream(this._ear, this._scribe, read, this._onEvent);
    return this._stream;
  }

  /** Give up the recording that is being transcribed: its promise fails with `cancelled`. */
  cancel() {
    this._transcription?.cancel();
  }

  close() {
    this._stream?.stop();
    this._scribe.close();
    this._ear.close();
  }

  _settings(settings) {
    const acceptSoftware = new URLSearchParams(location.search).has("software-gpu"); // for tests: slow, but a GPU
    return { acceptSoftware, ...settings, base: this._base };
  }

  _begin(pcm16k) {
    if (!this._scribe.isLoaded) throw new Trouble("closed", "No model is loaded.");
    if (this._transcription !== null) throw new Trouble("busy", "A recording is being transcribed already.");
    if (!(pcm16k instanceof Float32Array) || pcm16k.length === 0) {
      throw new Trouble("empty", "There is no sound to transcribe: it must be samples at 16 kHz.");
    }
  }
}

/** faster-whisper's `TranscriptionInfo`. */
function infoOf(pcm16k, runs, { language }, options) {
  const { vad_parameters, ...transcription_options } = options;
  const heard = runs === null ? pcm16k.length : runs.reduce((sum, { start, end }) => sum + end - start, 0);
  return {
    ...language,
    duration: pcm16k.length / RATE_HZ,
    duration_after_vad: heard / RATE_HZ,
    transcription_options,
    vad_options: runs === null ? null : vad_parameters,
  };
}
