/**
 * Captures the microphone as samples at 16 kHz.
 *
 * Uses the capture worklet of the voice page, on the audio thread, so that no sample is lost while the page or the
 * model is busy. Tests may provide their own source (docs/reference/voice-page.md).
 */

import { newContext, openContext, watchContext } from "../voice/audio/context.js";
import { AudioError, isMicrophoneDenied, openMicrophone, stopStream } from "../voice/audio/microphone.js";
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
   * `onSamples(samples)`: captured samples; `onLevel({rms})`: the level of each frame; `onState(state)`: of the audio
   * context; `onLost(why)`: the microphone stopped working.
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
      throw error instanceof AudioError ? error : new AudioError("audio_failed", error);
    }
    return capture;
  }

  constructor({ onSamples, onLevel, onState, onLost }) {
    this._onState = onState;
    this._unwatch = () => {};
    this._onSamples = onSamples;
    this._onLevel = onLevel;
    this._onLost = onLost;
    this._stream = null;
    this._resampler = new Resampler(CAPTURE_HZ, SAMPLE_RATE_HZ);
  }

  async _open() {
    const source = globalThis.packetVoiceSource;
    if (source === undefined) this._stream = await openMicrophone(CONSTRAINTS);
    const connect = source ?? ((context) => context.createMediaStreamSource(this._stream));
    const rateHz = this._stream?.getAudioTracks()[0]?.getSettings().sampleRate;
    const { context, source: node } = await openContext(connect, newContext(CAPTURE_HZ), rateHz);
    this._context = context;
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
    if (track !== undefined) track.onended = () => this._onEnded();
    this._unwatch = watchContext(context, this._onState);
  }

  async _onEnded() {
    this._onLost((await isMicrophoneDenied()) ? "microphone_revoked" : "microphone_gone");
  }

  /** Release the device; samples captured before still arrive until this resolves. */
  async close() {
    this._worklet?.port.postMessage({ stopped: true });
    this._unwatch();
    stopStream(this._stream);
    if (this._context !== undefined && this._context.state !== "closed") await this._context.close();
    if (this._frames !== undefined) this._frames.onmessage = null;
  }
}
