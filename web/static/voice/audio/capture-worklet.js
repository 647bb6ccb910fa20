/**
 * Captures the microphone as frames of 1920 samples at 24 kHz, each with its capture time.
 *
 * Times come from the audio clock, offset to the Unix epoch once (`epochMs`). Both worklets share this clock, so
 * differences between their times are exact. While muted, frames of silence are sent instead: the model is clocked
 * by the incoming frames.
 */

import { envelope } from "./envelope.js";
import { Framer } from "./framer.js";
import { Resampler } from "./resampler.js";
import { FRAME_SAMPLES, RATE_HZ, msOf } from "../units.js";

const SILENCE = new Float32Array(128); // one quantum

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions: { epochMs } }) {
    super();
    this._epochMs = epochMs;
    this._framer = new Framer();
    this._resampler = sampleRate === RATE_HZ ? null : new Resampler(sampleRate, RATE_HZ);
    this._startedMs = null;
    this._emitted = 0;
    this._muted = false;
    this._recording = false;
    this._connection = null;
    this.port.onmessage = ({ data }) => this._onMessage(data);
  }

  _onMessage({ connection, muted, recording, stopped }) {
    if (connection !== undefined) this._connection = connection;
    if (muted !== undefined) this._muted = muted;
    if (recording !== undefined) this._recording = recording;
    if (stopped) this._stopped = true;
  }

  process([channels]) {
    if (this._stopped) return false;
    const input = channels.length === 0 ? SILENCE : channels[0]; // no source: silence instead of a gap
    this._startedMs ??= this._epochMs + currentTime * 1000;
    const samples = this._resampler === null ? input : this._resampler.process(input);
    this._framer.push(samples, (frame) => this._emit(frame));
    return true;
  }

  _emit(samples) {
    const firstMs = this._startedMs + msOf(this._emitted);
    this._emitted += FRAME_SAMPLES;
    const lastMs = firstMs + msOf(FRAME_SAMPLES - 1);
    const report = { kind: "captured", ...envelope(samples), muted: this._muted };
    if (this._muted) samples.fill(0);
    if (this._recording) Object.assign(report, { firstMs, samples });
    this.port.postMessage(report);
    this._connection?.postMessage({ samples, lastMs });
  }
}

registerProcessor("capture", Capture);
