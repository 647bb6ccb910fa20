/**
 * Plays received frames through the jitter buffer; missing audio is concealed and counted.
 *
 * The mic-to-speaker latency of a frame is the playout time of its first sample minus the capture time of the first
 * sample of the user frame it answers, both on the audio clock. On barge-in the agent is ducked within 20 ms, or
 * silenced with the buffer flushed.
 */

import { envelope } from "./envelope.js";
import { Framer } from "./framer.js";
import { JitterBuffer } from "./jitter-buffer.js";
import { applyVolume } from "./limiter.js";
import { Resampler } from "./resampler.js";
import { LAST_SAMPLE_MS, RATE_HZ, msOf } from "../units.js";

const QUANTUM_SAMPLES = 128;
const DUCKED_GAIN = 0.15;
const RAMP_SAMPLES = 0.02 * RATE_HZ;

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions: { epochMs } }) {
    super();
    this._epochMs = epochMs;
    this._jitterBuffer = new JitterBuffer();
    this._framer = new Framer();
    this._resampler = sampleRate === RATE_HZ ? null : new Resampler(RATE_HZ, sampleRate);
    this._rest = new Float32Array(0); // resampled, not yet played
    this._block = new Float32Array(QUANTUM_SAMPLES);
    this._pulled = 0;
    this._startedMs = null;
    this._latenciesMs = [];
    this._lastPlayedFrame = null;
    this._gain = 1;
    this._targetGain = 1;
    this._volume = 1;
    this._nextVolume = 1;
    this._isFlushing = false;
    this._recording = false;
    this._connection = null;
    this.port.onmessage = ({ data }) => this._onMessage(data);
  }

  _onMessage({ connection, bargeIn, recording, stopped, volume }) {
    if (connection !== undefined) {
      this._connection = connection;
      connection.onmessage = ({ data }) => this._receive(data);
    }
    if (bargeIn !== undefined) this._setBargeIn(bargeIn);
    if (recording !== undefined) this._recording = recording;
    if (volume !== undefined) this._nextVolume = volume;
    if (stopped) this._stopped = true;
  }

  /** `duck` or `flush` while the user speaks over the agent; null otherwise. */
  _setBargeIn(bargeIn) {
    this._isFlushing = bargeIn === "flush";
    this._targetGain = bargeIn === null ? 1 : bargeIn === "duck" ? DUCKED_GAIN : 0;
    if (this._isFlushing) this._jitterBuffer.flush();
  }

  _receive(message) {
    if (message.kind === "pause") {
      this._jitterBuffer.flush();
      this._lastPlayedFrame = null;
      return;
    }
    const { samples, echoMs, index } = message;
    if (this._isFlushing) this._lastPlayedFrame = index; // not played, but not pending either
    else this._jitterBuffer.push(samples, { echoMs, index });
    this._connection.postMessage({ used: samples }, [samples.buffer]);
  }

  process(_inputs, [output]) {
    if (this._stopped) return false;
    this._startedMs ??= this._epochMs + currentTime * 1000;
    const speaker = output[0];
    if (this._resampler === null) this._pull(speaker);
    else this._resample(speaker);
    applyVolume(speaker, this._volume, this._nextVolume);
    this._volume = this._nextVolume;
    for (let i = 1; i < output.length; i += 1) output[i].set(speaker);
    return true;
  }

  _resample(speaker) {
    for (let filled = 0; ; ) {
      const part = this._rest.subarray(0, speaker.length - filled);
      speaker.set(part, filled);
      filled += part.length;
      this._rest = this._rest.subarray(part.length);
      if (filled === speaker.length) return;
      this._pull(this._block);
      this._rest = this._resampler.process(this._block); // all of the last one has been played
    }
  }

  _pull(block) {
    const blockMs = this._startedMs + msOf(this._pulled);
    const onStart = ({ echoMs }, at) => this._latenciesMs.push(blockMs + msOf(at) - (echoMs - LAST_SAMPLE_MS));
    const onEnd = ({ index }) => {
      this._lastPlayedFrame = index;
    };
    this._jitterBuffer.pull(block, onStart, onEnd);
    this._pulled += block.length;
    const stepGain = Math.sign(this._targetGain - this._gain) / RAMP_SAMPLES;
    for (let i = 0; i < block.length; i += 1) {
      if (Math.abs(this._targetGain - this._gain) > Math.abs(stepGain)) this._gain += stepGain;
      else this._gain = this._targetGain;
      block[i] *= this._gain;
    }
    this._framer.push(block, (played) => this._report(played, blockMs + msOf(block.length) - msOf(played.length)));
  }

  /** Every 80 ms: report to the page, and send the playout state to the connection. */
  _report(played, firstMs) {
    const { underruns, frames, trimmedSamples, bufferedSamples, targetDelaySamples, isPlaying } = this._jitterBuffer;
    const bufferMs = msOf(bufferedSamples);
    const report = {
      kind: "played",
      ...envelope(played),
      isPlaying,
      bufferMs,
      targetDelayMs: msOf(targetDelaySamples),
      underruns,
      frames,
      trimmedMs: msOf(trimmedSamples),
      latenciesMs: this._latenciesMs,
    };
    if (this._recording) Object.assign(report, { firstMs, samples: played });
    this.port.postMessage(report);
    this._connection?.postMessage({ lastPlayedFrame: this._lastPlayedFrame, underruns, bufferMs });
    this._latenciesMs = [];
  }
}

registerProcessor("playback", Playback);
