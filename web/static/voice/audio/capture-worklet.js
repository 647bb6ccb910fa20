/**
 * Every sample of the microphone leaves once, in frames of 1920 at 24 kHz that carry their capture time.
 *
 * Time is the audio clock, moved to the Unix epoch once (`epochMs`): both worklets share it, so that
 * differences between them are exact. Muted, silence leaves in its place: the microphone is the model's clock.
 */

import { envelope } from "./envelope.js";
import { Framer } from "./framer.js";
import { Resampler } from "./resampler.js";
import { FRAME_SAMPLES, RATE_HZ, msOf } from "../units.js";

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
    this._wire = null;
    this.port.onmessage = ({ data }) => this._heed(data);
  }

  _heed({ wire, muted, recording, stopped }) {
    if (wire !== undefined) this._wire = wire;
    if (muted !== undefined) this._muted = muted;
    if (recording !== undefined) this._recording = recording;
    if (stopped) this._stopped = true;
  }

  process([input]) {
    if (this._stopped) return false;
    const heard = input.length === 0 ? new Float32Array(128) : input[0]; // no source: silence, not a gap
    this._startedMs ??= this._epochMs + currentTime * 1000;
    const samples = this._resampler === null ? heard : this._resampler.process(heard);
    this._framer.push(samples, (frame) => this._emit(frame));
    return true;
  }

  _emit(samples) {
    const firstMs = this._startedMs + msOf(this._emitted);
    this._emitted += FRAME_SAMPLES;
    const lastMs = firstMs + msOf(FRAME_SAMPLES - 1);
    const report = { kind: "heard", ...envelope(samples), muted: this._muted };
    if (this._muted) samples.fill(0);
    if (this._recording) Object.assign(report, { firstMs, samples: samples.slice() });
    this.port.postMessage(report);
    this._wire?.postMessage({ samples, lastMs }, [samples.buffer]);
  }
}

registerProcessor("capture", Capture);
