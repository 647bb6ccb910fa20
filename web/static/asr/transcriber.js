/**
 * The engine's public interface: load a model, then transcribe a recording or a stream.
 *
 * All heavy work runs in workers. Events, each with a `type`: progress {file, loaded, total}; segment
 * {segment}; speech {start}; partial {text, stable, start, end}; final {segment}; utterance {text, start, end,
 * segments, language}; dropped {what, start?, end?, reason}; recycled {reason}; error {error}. Errors are
 * `AsrError`s.
 */

import { RATE_HZ } from "./streaming/speech-segmenter.js";
import { VadClient } from "./streaming/vad-client.js";
import { readOptions } from "./options.js";
import { planWithSizes } from "./model/load-plan.js";
import { AsrClient } from "./engine/asr-client.js";
import { Stream } from "./streaming/stream.js";
import { Transcription } from "./engine/transcription.js";
import { AsrError } from "./errors.js";
import { requireVendored, vendored } from "./model/vendored.js";
import { SpeechWindow, windowsOf } from "./engine/windows.js";

const HUB = "api/hf/"; // relative to the page, which may be under a path prefix

export class Transcriber {
  /** `base`: URL of the hub proxy; `vendorUrls`: see `vendored()`; `limits`: see asr-client.js. */
  constructor({ base = HUB, vendorUrls = vendored(), onEvent = () => {}, limits = {} } = {}) {
    this._base = new URL(base, location.href).href;
    this._vendorUrls = vendorUrls;
    this._onEvent = onEvent;
    this._asrClient = new AsrClient({ onEvent, limits });
    this._vadClient = new VadClient(vendorUrls);
    this._stream = null;
    this._transcription = null; // of the recording
  }

  /** What `load` would do, without loading: {device, reason, dtype, files: [{file, bytes, cached}]}. */
  plan(settings) {
    return planWithSizes(this._settings(settings));
  }

  /**
   * Fetch and load a model. `{model, revision?, dtype?, device?}`: a name from model-list.js or a repository.
   * → {device, reason, dtype, multilingual, languages, files: [{file, bytes, cached}], fetchMs, loadMs}
   */
  async load(settings) {
    return this._asrClient.load({ ...this._settings(settings), vendor: requireVendored(this._vendorUrls) });
  }

  /** Transcribe a recording, mono at 16 kHz. → {segments, info}; each segment is also sent as an event. */
  async transcribe(pcm16k, options = {}) {
    const settings = readOptions(options);
    this._checkCanStart(pcm16k);
    const segments = [];
    const transcription = new Transcription(this._asrClient, settings, {
      onSegment: (segment) => {
        segments.push(segment);
        this._onEvent({ type: "segment", segment });
      },
      onDropped: (what) => this._onEvent({ type: "dropped", what: "window", ...what }),
    });
    this._transcription = transcription;
    try {
      const runs = settings.vad_filter ? await this._vadClient.findSpeech(pcm16k, settings.vad_parameters) : null;
      const whole = [new SpeechWindow([{ start: 0, end: pcm16k.length }], pcm16k)];
      const windows = runs === null ? whole : windowsOf(pcm16k, runs);
      for (const window of windows) await transcription.transcribeWindow(window);
      return { segments, info: infoOf(pcm16k, runs, transcription, settings) };
    } finally {
      this._transcription = null;
    }
  }

  /** Start a stream: {push(samples16k), flush(), stop()}; results arrive as events. Only one at a time. */
  stream(options = {}) {
    const settings = readOptions(options, { streaming: true });
    if (!this._asrClient.isLoaded) throw new AsrError("closed", "No model is loaded.");
    this._stream?.stop();
    this._stream = new Stream(this._vadClient, this._asrClient, settings, this._onEvent);
    return this._stream;
  }

  /** Cancel the recording being transcribed: its promise is rejected with `cancelled`. */
  cancel() {
    this._transcription?.cancel();
  }

  close() {
    this._stream?.stop();
    this._asrClient.close();
    this._vadClient.close();
  }

  _settings(settings) {
    const acceptSoftware = new URLSearchParams(location.search).has("software-gpu"); // for tests of the WebGPU path
    return { acceptSoftware, ...settings, base: this._base };
  }

  _checkCanStart(pcm16k) {
    if (!this._asrClient.isLoaded) throw new AsrError("closed", "No model is loaded.");
    if (this._transcription !== null) throw new AsrError("busy", "A transcription is already running.");
    if (!(pcm16k instanceof Float32Array) || pcm16k.length === 0) {
      throw new AsrError("empty", "No audio to transcribe: expected samples at 16 kHz.");
    }
  }
}

/** faster-whisper's `TranscriptionInfo`. */
function infoOf(pcm16k, runs, { language }, options) {
  const { vad_parameters, ...transcription_options } = options;
  const speechSamples = runs === null ? pcm16k.length : runs.reduce((sum, { start, end }) => sum + end - start, 0);
  return {
    ...language,
    duration: pcm16k.length / RATE_HZ,
    duration_after_vad: speechSamples / RATE_HZ,
    transcription_options,
    vad_options: runs === null ? null : vad_parameters,
  };
}
