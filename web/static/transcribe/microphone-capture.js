/**
 * Captures the microphone as samples at 16 kHz.
 *
 * Uses the capture worklet of the voice page, on the audio thread, so that no sample is lost while the page or the
 * model is busy. Tests may provide their own source (docs/reference/voice-page.md).
 */

import { AudioError, openMicrophone } from "../voice/audio/microphone.js";
import { Resampler } from "../voice/audio/resampler.js";
import { RATE_HZ as CAPTURE_HZ } from "../voice/units.js";
import { SAMPLE_RATE_HZ } from "./data/audio-file.js";

const CONSTRAINTS = Object.freeze({
  deviceId: "",
  echoCancellation: false, // nothing is played
  noiseSuppression: true,
  autoGainControl: true,
});

export class MicrophoneCapture {
  /**
   * Open the microphone. Must be called from a user gesture. Throws AudioError; then everything is closed again.
   *
   * `onSamples(samples)`: captured samples; `onLevel({rms})`: the level of each frame; `onLost(why)`: the microphone
   * stopped working.
   */
  static async open(callbacks) {
    if (globalThis.AudioWorkletNode === undefined) {
      throw new AudioError(globalThis.isSecureContext ? "no_audio_worklet" : "insecure_context");
    }
    const capture = new MicrophoneCapture(callbacks);
    try {
      await capture._open();
    } catch (error) {
      await capture.close();
      throw error;
    }
    return capture;
  }

  constructor({ onSamples, onLevel, onLost }) {
    this._onSamples = onSamples;
    this._onLevel = onLevel;
    this._onLost = onLost;
    this._stream = null;
    this._resampler = new Resampler(CAPTURE_HZ, SAMPLE_RATE_HZ);
  }

  async _open() {
    const source = globalThis.packetVoiceSource;
    if (source === undefined) this._stream = await openMicrophone(CONSTRAINTS);
    this._context = new AudioContext({ sampleRate: CAPTURE_HZ });
    let node;
    try {
      node = this._connectable(source);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      await this._context.close(); // Firefox: the microphone must have the rate of the context; the worklet resamples
      this._context = new AudioContext();
      node = this._connectable(source);
    }
    await this._context.audioWorklet.addModule(new URL("../voice/audio/capture-worklet.js", import.meta.url));
    await this._context.resume();
    const worklet = new AudioWorkletNode(this._context, "capture", {
      processorOptions: { epochMs: performance.timeOrigin },
      channelCount: 1,
      channelCountMode: "explicit",
    });
    const frames = new MessageChannel();
    frames.port2.onmessage = ({ data }) => this._onSamples(this._resampler.process(data.samples));
    worklet.port.onmessage = ({ data }) => this._onLevel(data);
    worklet.port.postMessage({ connection: frames.port1 }, [frames.port1]);
    worklet.onprocessorerror = () => this._onLost("worklet_failed");
    node.connect(worklet);
    worklet.connect(this._context.destination); // silent, but only connected nodes are processed
    this._worklet = worklet;
    this._frames = frames.port2;
    const [track] = this._stream?.getAudioTracks() ?? [];
    if (track !== undefined) track.onended = () => this._onLost("microphone_gone");
  }

  _connectable(source) {
    return source === undefined ? this._context.createMediaStreamSource(this._stream) : source(this._context);
  }

  /** Release the device; samples captured before still arrive until this resolves. */
  async close() {
    this._worklet?.port.postMessage({ stopped: true });
    for (const track of this._stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    if (this._context !== undefined && this._context.state !== "closed") await this._context.close();
    if (this._frames !== undefined) this._frames.onmessage = null;
  }
}
