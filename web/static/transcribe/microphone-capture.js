/**
 * Captures the microphone as samples at 16 kHz.
 *
 * Uses the capture worklet of the voice page, on the audio thread, so that no sample is lost while the page or the
 * model is busy. Tests may provide their own source (docs/reference/voice-page.md).
 */

import { newContext, openContext, watchContext } from "../voice/audio/context.js";
import { AudioError } from "../voice/audio/audio-error.js";
import { isMicrophoneDenied, openMicrophone, stopStream } from "../voice/audio/microphone.js";
import { Resampler } from "../voice/audio/resampler.js";
import { RATE_HZ as CAPTURE_HZ } from "../voice/units.js";
import { SAMPLE_RATE_HZ } from "./data/audio-file.js";

const SILENT_FRAMES = 38; // of 80 ms: no microphone delivers pure zeros for 3 s
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
   * context; `onProblem(why)`: it works, but nothing can be heard: `source_muted` or `no_signal`, null when that is over;
   * `onLost(why)`: the microphone stopped working.
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

  constructor({ onSamples, onLevel, onState, onProblem, onLost }) {
    this._onState = onState;
    this._unwatch = () => {};
    this._onSamples = onSamples;
    this._onLevel = onLevel;
    this._onProblem = onProblem;
    this._problem = null;
    this._zeroFrames = 0;
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
    frames.port2.onmessage = ({ data }) => this._onSamples(this._resampler.process(data.samples).slice());
    worklet.port.onmessage = ({ data }) => this._onFrame(data);
    worklet.port.postMessage({ connection: frames.port1 }, [frames.port1]);
    worklet.onprocessorerror = () => this._onLost("worklet_failed");
    node.connect(worklet);
    worklet.connect(this._context.destination); // silent, but only connected nodes are processed
    this._worklet = worklet;
    this._frames = frames.port2;
    const [track] = this._stream?.getAudioTracks() ?? [];
    if (track !== undefined) {
      track.onended = () => this._onEnded();
      track.onmute = track.onunmute = () => this._check();
      this._track = track;
    }
    this._unwatch = watchContext(context, this._onState);
  }

  _onFrame(report) {
    this._zeroFrames = report.rms === 0 ? this._zeroFrames + 1 : 0;
    this._check();
    this._onLevel(report);
  }

  /** Tell when something begins or ends that keeps the user from being heard. */
  _check() {
    const silence = this._zeroFrames >= SILENT_FRAMES ? "no_signal" : null;
    const problem = this._track?.muted ? "source_muted" : silence;
    if (problem === this._problem) return;
    this._problem = problem;
    this._onProblem(problem);
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
