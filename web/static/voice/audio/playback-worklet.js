/**
 * What arrives is played in order and at once; what is missing is concealed and counted, never hidden.
 *
 * Frames come from the wire; the jitter buffer decides when they sound. For each one, mic→speaker is the
 * playout of its first sample less the capture of the first sample of the user's frame it answers, both on
 * the audio clock. Ducking turns the agent down within 20 ms, or silences it and drops what waits.
 */

import { envelope } from "./envelope.js";
import { Framer } from "./framer.js";
import { JitterBuffer } from "./jitter.js";
import { Resampler } from "./resampler.js";
import { LAST_SAMPLE_MS, RATE_HZ, msOf } from "../units.js";

const QUANTUM_SAMPLES = 128;
const DUCKED_GAIN = 0.15;
const RAMP_SAMPLES = 0.02 * RATE_HZ;

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions: { epochMs } }) {
    super();
    this._epochMs = epochMs;
    this._jitter = new JitterBuffer();
    this._framer = new Framer();
    this._resampler = sampleRate === RATE_HZ ? null : new Resampler(RATE_HZ, sampleRate);
    this._ready = new Float32Array(0); // resampled, not yet played
    this._block = new Float32Array(QUANTUM_SAMPLES);
    this._pulled = 0;
    this._startedMs = null;
    this._latenciesMs = [];
    this._lastPlayedFrame = null;
    this._gain = 1;
    this._wantedGain = 1;
    this._silenced = false;
    this._recording = false;
    this._wire = null;
    this.port.onmessage = ({ data }) => this._heed(data);
  }

  _heed({ wire, barge, recording, stopped }) {
    if (wire !== undefined) {
      this._wire = wire;
      wire.onmessage = ({ data }) => this._receive(data);
    }
    if (barge !== undefined) this._yieldTo(barge);
    if (recording !== undefined) this._recording = recording;
    if (stopped) this._stopped = true;
  }

  /** The user speaks over the agent (`duck`, `flush`), or has stopped to (null). */
  _yieldTo(barge) {
    this._silenced = barge === "flush";
    this._wantedGain = barge === null ? 1 : barge === "duck" ? DUCKED_GAIN : 0;
    if (this._silenced) this._jitter.flush();
  }

  _receive(message) {
    if (message.kind === "pause") {
      this._jitter.flush();
      this._lastPlayedFrame = null;
      return;
    }
    const { samples, echoMs, index } = message;
    if (this._silenced) {
      this._lastPlayedFrame = index; // heard by nobody, but not waiting either
      return;
    }
    this._jitter.push(samples, { echoMs, index });
  }

  process(_inputs, [output]) {
    if (this._stopped) return false;
    this._startedMs ??= this._epochMs + currentTime * 1000;
    const speaker = output[0];
    if (this._resampler === null) this._pull(speaker);
    else this._resample(speaker);
    for (let i = 1; i < output.length; i += 1) output[i].set(speaker);
    return true;
  }

  _resample(speaker) {
    while (this._ready.length < speaker.length) {
      this._pull(this._block);
      const more = this._resampler.process(this._block);
      const joined = new Float32Array(this._ready.length + more.length);
      joined.set(this._ready);
      joined.set(more, this._ready.length);
      this._ready = joined;
    }
    speaker.set(this._ready.subarray(0, speaker.length));
    this._ready = this._ready.slice(speaker.length);
  }

  _pull(block) {
    const blockMs = this._startedMs + msOf(this._pulled);
    const began = ({ echoMs }, at) => this._latenciesMs.push(blockMs + msOf(at) - (echoMs - LAST_SAMPLE_MS));
    const ended = ({ index }) => {
      this._lastPlayedFrame = index;
    };
    this._jitter.pull(block, began, ended);
    this._pulled += block.length;
    const stepGain = Math.sign(this._wantedGain - this._gain) / RAMP_SAMPLES;
    for (let i = 0; i < block.length; i += 1) {
      if (Math.abs(this._wantedGain - this._gain) > Math.abs(stepGain)) this._gain += stepGain;
      else this._gain = this._wantedGain;
      block[i] *= this._gain;
    }
    this._framer.push(block, (played) => this._report(played, blockMs + msOf(block.length) - msOf(played.length)));
  }

  /** Every 80 ms of playing: to the page what was heard, to the wire what the server wants to know. */
  _report(played, firstMs) {
    const { underruns, frames, trimmedSamples, bufferedSamples, cushionSamples, isPlaying } = this._jitter;
    const bufferMs = msOf(bufferedSamples);
    const report = {
      kind: "played",
      ...envelope(played),
      isPlaying,
      bufferMs,
      cushionMs: msOf(cushionSamples),
      underruns,
      frames,
      trimmedMs: msOf(trimmedSamples),
      latenciesMs: this._latenciesMs,
    };
    if (this._recording) Object.assign(report, { firstMs, samples: played });
    this.port.postMessage(report);
    this._wire?.postMessage({ lastPlayedFrame: this._lastPlayedFrame, underruns, bufferMs });
    this._latenciesMs = [];
  }
}

registerProcessor("playback", Playback);
