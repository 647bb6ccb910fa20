/**
 * Live transcription that never blocks its input: work that cannot keep up is dropped and reported.
 *
 * The current utterance is decoded again and again while Whisper is otherwise idle (partials); a finished one
 * is decoded once, in order (finals), and finals take priority. At most four windows are queued: beyond that
 * the oldest is dropped. At most 30 s of audio wait for the voice activity detector: beyond that it is dropped.
 */

import { LocalAgreement } from "./local-agreement.js";
import { RATE_HZ } from "./speech-segmenter.js";
import { Transcription } from "../engine/transcription.js";
import { SpeechWindow } from "../engine/windows.js";

const MAX_QUEUED_WINDOWS = 4;
const MAX_PENDING_SAMPLES = 30 * RATE_HZ;
const PARTIAL_AFTER_SAMPLES = 0.8 * RATE_HZ; // of new audio before the next partial

export class Stream {
  constructor(vadClient, asrClient, options, onEvent) {
    this._vadClient = vadClient;
    this._asrClient = asrClient;
    this._onEvent = onEvent;
    this._options = options;
    this._transcription = new Transcription(asrClient, options, {
      onSegment: (segment) => this._emit({ type: "final", segment }),
      onDropped: (what) => this._emit({ type: "dropped", what: "window", ...what }),
    });
    this._windows = [];
    this._pendingSamples = 0;
    this._lostSamples = 0; // dropped, but not yet reported to the VAD
    this._isBusy = false;
    this._isStopped = false;
    this._idleResolvers = [];
    this._resetUtterance();
    this._started = vadClient.startStream(options.vad_parameters, (message) => this._onVadMessage(message));
    this._started.catch((error) => this._fail(error));
  }

  /** Add any number of samples at 16 kHz; they are copied. */
  push(samples) {
    if (this._isStopped || samples.length === 0) return;
    if (this._pendingSamples + samples.length > MAX_PENDING_SAMPLES) {
      if (this._lostSamples === 0) this._emit({ type: "dropped", what: "audio", reason: "the detector is behind" });
      this._lostSamples += samples.length;
      return;
    }
    this._pendingSamples += samples.length;
    const [lostSamples, copy] = [this._lostSamples, samples.slice()];
    this._lostSamples = 0;
    this._started.then(
      () => {
        if (this._isStopped) return;
        if (lostSamples > 0) this._vadClient.skip(lostSamples);
        this._vadClient.push(copy);
      },
      () => {},
    );
  }

  /** End the current utterance here. Resolves when everything is final. */
  async flush() {
    await this._started;
    if (this._isStopped) return;
    await this._vadClient.flush();
    if (this._isBusy || this._windows.length > 0) await new Promise((resolve) => this._idleResolvers.push(resolve));
  }

  /** Stop; whatever is not final yet is discarded. */
  stop() {
    if (this._isStopped) return;
    this._isStopped = true;
    this._windows = [];
    this._vadClient.endStream();
    this._asrClient.cancel();
    this._resolveIdle();
  }

  _onVadMessage(message) {
    if (message.kind === "processed") this._pendingSamples -= message.count;
    else if (message.kind === "speech") this._emit({ type: "speech", start: message.start / RATE_HZ });
    else if (message.kind === "extended") this._extend(message);
    else if (message.kind === "window") this._endUtterance(message);
    else if (message.kind === "discarded") this._resetUtterance();
    else this._fail(message.error);
    this._run();
  }

  _extend({ start, samples }) {
    this._start = start;
    this._parts.push(samples);
    this._length += samples.length;
  }

  _endUtterance({ start, end, samples }) {
    this._resetUtterance();
    this._windows.push(new SpeechWindow([{ start, end }], samples));
    if (this._windows.length <= MAX_QUEUED_WINDOWS) return;
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

  /** There is no open utterance. */
  _resetUtterance() {
    this._agreement = new LocalAgreement();
    this._parts = [];
    this._length = 0;
    this._partialAt = 0;
  }

  async _run() {
    if (this._isBusy || this._isStopped) return;
    this._isBusy = true;
    try {
      for (;;) {
        if (this._windows.length > 0) await this._decodeFinal(this._windows.shift());
        else if (this._length - this._partialAt >= PARTIAL_AFTER_SAMPLES) await this._decodePartial();
        else break;
        if (this._isStopped) break;
      }
    } catch (error) {
      if (!this._isStopped) this._fail(error);
    }
    this._isBusy = false;
    this._resolveIdle();
  }

  async _decodeFinal(window) {
    const segments = await this._transcription.transcribeWindow(window);
    const [{ start, end }] = window.pieces;
    const text = segments.map((segment) => segment.text).join("");
    const language = this._transcription.language;
    this._emit({ type: "utterance", start: start / RATE_HZ, end: end / RATE_HZ, text, segments, ...language });
  }

  /** Decode the open utterance so far; the result is ignored if it has ended meanwhile. */
  async _decodePartial() {
    const [agreement, start, length] = [this._agreement, this._start, this._length];
    this._partialAt = length;
    const options = { ...this._transcription.currentOptions(), temperature: [0], word_timestamps: false };
    const samples = joined(this._parts, length);
    let result;
    try {
      result = await this._asrClient.decode(samples, options);
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

  _resolveIdle() {
    for (const resolve of this._idleResolvers.splice(0)) resolve();
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
