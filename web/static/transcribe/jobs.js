/**
 * Runs one job at a time: loading a model, transcribing a file, or transcribing the microphone.
 *
 * Everything that happens is passed to `onEvent` as an object with a `kind` (those in phase.js change the phase).
 * Results of a job that was cancelled are ignored. How things look is decided by the views.
 */

import { AsrError } from "../asr/errors.js";
import { requireVendored, vendored } from "../asr/model/vendored.js";
import { readOptions } from "../asr/options.js";
import { Transcriber } from "../asr/transcriber.js";
import { AudioError } from "../voice/audio/audio-error.js";
import { AudioFileError, SAMPLE_RATE_HZ, decodeAudioFile } from "./data/audio-file.js";
import { MicrophoneCapture } from "./microphone-capture.js";
import { nextPhase } from "./phase.js";

const EXPECTED_ERRORS = [AsrError, AudioError, AudioFileError];

export class JobRunner {
  /**
   * `modelSettings()`: the model to load; `options()`: the transcription options, null if invalid. `audioSink` stores
   * the audio for playback: clear(), load(blob, samples), append(samples), loadRecording(), durationS.
   */
  constructor({ modelSettings, options, audioSink, onEvent }) {
    this._modelSettings = modelSettings;
    this._options = options;
    this._audioSink = audioSink;
    this._onEvent = onEvent;
    this._jobId = 0; // identifies the current job
    this._running = Promise.resolve(); // settles when the engine is idle, even after a cancellation
    this._transcriber = null;
    this._microphone = null;
    this._stream = null;
    this.phase = "idle";
    this.result = { segments: [], info: null };
  }

  /** Unload the model. → whether another one can be loaded. */
  resetTranscriber() {
    this._transcriber?.close();
    const transcriber = new Transcriber({
      onEvent: (event) => {
        if (transcriber === this._transcriber) this._onEngineEvent(event);
      },
    });
    this._transcriber = transcriber;
    this._emit({ kind: "unloaded" });
    try {
      requireVendored(vendored());
      return true;
    } catch (error) {
      this._emit({ kind: "not_installed", message: error.message });
      return false;
    }
  }

  /** What loading a model would involve, as far as it is known here; see Transcriber.planStored. Throws AsrError. */
  plan(settings) {
    return this._transcriber.planStored(settings);
  }

  /** Load the model unless it is loaded. → whether it is. */
  async ensureLoaded() {
    if (this.phase !== "idle") return this.phase === "ready";
    const jobId = this._nextJob();
    this._emit({ kind: "loading" });
    try {
      const loaded = await this._transcriber.load(this._modelSettings());
      if (jobId !== this._jobId) return false;
      this._emit({ ...loaded, kind: "loaded" });
      return true;
    } catch (error) {
      this._fail(jobId, "load_failed", error);
      return false;
    }
  }

  async transcribe(file) {
    const options = this._options();
    if (options === null || !(await this.ensureLoaded())) return;
    const jobId = this._nextJob();
    this._emit({ kind: "decoding", name: file.name });
    try {
      const { samples, problem } = await decodeAudioFile(file);
      await this._running;
      if (jobId !== this._jobId) return;
      this._reset();
      if (problem !== null) this._emit({ kind: "sound_problem", why: problem });
      this._emit({ kind: "transcribing", name: file.name, durationS: samples.length / SAMPLE_RATE_HZ });
      this._audioSink.load(file, samples);
      const running = this._transcriber.transcribe(samples, options);
      this._running = running.catch(() => {});
      const { info } = await running;
      this._finish(jobId, info, { live: false });
    } catch (error) {
      this._fail(jobId, "failed", error);
    }
  }

  async startMicrophone() {
    const options = this._options();
    if (options === null || !(await this.ensureLoaded())) return;
    const jobId = this._nextJob();
    this._emit({ kind: "opening" });
    try {
      const microphone = await MicrophoneCapture.open({
        onSamples: (samples) => this._onSamples(samples),
        onLevel: ({ rms }) => this._emit({ kind: "captured", rms, seconds: this._audioSink.durationS }),
        onState: (state) => this._emit({ kind: "audio_state", state }),
        onProblem: (why) => this._emit({ kind: "sound_problem", why }),
        onLost: (why) => this._onMicrophoneLost(why),
      });
      await this._running;
      if (jobId !== this._jobId) {
        await microphone.close(); // cancelled during the permission prompt
        return;
      }
      this._microphone = microphone;
      this._reset();
      this._emit({ kind: "listening" });
      this._stream = this._transcriber.stream(options);
      const { vad_parameters: vad_options, ...transcription_options } = readOptions(options, { streaming: true });
      const language = { language: null, language_probability: null, all_language_probs: null };
      this._info = { ...language, duration_after_vad: 0, transcription_options, vad_options };
    } catch (error) {
      this._fail(jobId, "failed", error);
      await this._closeMicrophone();
    }
  }

  /** Stop the microphone; the audio captured so far is transcribed to its end. */
  async stopMicrophone() {
    const { _jobId: jobId, _stream: stream } = this;
    this._emit({ kind: "finishing" });
    await this._closeMicrophone();
    try {
      await stream.flush();
      stream.stop();
      this._finish(jobId, { ...this._info, duration: this._audioSink.durationS }, { live: true });
    } catch (error) {
      this._fail(jobId, "failed", error);
    }
  }

  /** Cancel the current job; its results so far are kept. */
  async cancel() {
    if (this.phase === "loading") this._transcriber.close();
    this._abortJob();
    this._emit({ kind: "cancelled" });
    await this._closeMicrophone();
  }

  _onEngineEvent({ type, ...event }) {
    switch (type) {
      case "segment":
      case "final":
        this.result.segments.push(event.segment);
        this._emit({ kind: "segment", segment: event.segment });
        return;
      case "utterance":
        this._onUtterance(event);
        return;
      case "error":
        this._fail(this._jobId, "failed", event.error);
        this._closeMicrophone();
        return;
      default:
        this._emit({ kind: type, ...event });
    }
  }

  /** An utterance is final: clear its partial text. */
  _onUtterance({ start, end, language, language_probability, all_language_probs }) {
    this._info.duration_after_vad += end - start;
    if (this._info.language === null) {
      Object.assign(this._info, { language, language_probability, all_language_probs });
    }
    this._emit({ kind: "partial", text: "", stable: "" });
  }

  _onSamples(samples) {
    this._stream?.push(samples);
    this._audioSink.append(samples);
  }

  /** What was captured until then is transcribed to its end. */
  async _onMicrophoneLost(why) {
    if (this.phase === "listening") {
      this._emit({ kind: "microphone_lost", why });
      await this.stopMicrophone();
      return;
    }
    this._abortJob();
    this._emit({ kind: "failed", why });
    await this._closeMicrophone();
  }

  _nextJob() {
    this._jobId += 1;
    return this._jobId;
  }

  _abortJob() {
    this._nextJob();
    this._stream?.stop();
    this._stream = null;
    this._transcriber.cancel();
  }

  _reset() {
    this.result.segments.length = 0;
    this.result.info = null;
    this._audioSink.clear();
  }

  _finish(jobId, info, { live }) {
    if (jobId !== this._jobId) return;
    this.result.info = info;
    this._stream = null;
    const words = this.result.segments.reduce((sum, segment) => sum + (segment.words?.length ?? 0), 0);
    this._emit({ kind: "done", info, words, live });
  }

  _fail(jobId, kind, error) {
    if (jobId !== this._jobId) return;
    if (!EXPECTED_ERRORS.some((type) => error instanceof type)) console.error(error);
    this._stream = null;
    const message = error instanceof AsrError ? error.message : "";
    this._emit({ kind, why: error.code ?? error.why ?? "crashed", message });
  }

  /** Release the microphone and make its audio available for playback. */
  async _closeMicrophone() {
    const microphone = this._microphone;
    if (microphone === null) return;
    this._microphone = null;
    await microphone.close();
    this._audioSink.loadRecording();
  }

  _emit(event) {
    this.phase = nextPhase(this.phase, event.kind);
    this._onEvent(event);
  }
}
