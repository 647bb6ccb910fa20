/**
 * The microphone's samples arrive at 16 kHz, in order, for as long as it listens; then the device is free.
 *
 * Captured by the same worklet as a conversation's, on the audio thread: whatever the page or the model is
 * busy with, no sample is lost. A page under test may bring its own source (docs/reference/voice-page.md).
 */

import { SoundError, openMicrophone } from "../voice/audio/microphone.js";
import { Resampler } from "../voice/audio/resampler.js";
import { RATE_HZ as CAPTURE_HZ } from "../voice/units.js";
import { RATE_HZ } from "./data/decoding.js";

const WISHES = Object.freeze({
  deviceId: "",
  echoCancellation: false, // nothing plays
  noiseSuppression: true,
  autoGainControl: true,
});

export class Listening {
  /**
   * Open the microphone; call it from a gesture. Throws SoundError; then nothing is left open.
   *
   * `push(samples)` is given what it hears, `level(decibels)` how loud, `lost(why)` that it is gone.
   */
  static async open(taps) {
    if (globalThis.AudioWorkletNode === undefined) {
      throw new SoundError(globalThis.isSecureContext ? "no_audio_worklet" : "insecure_context");
    }
    const listening = new Listening(taps);
    try {
      await listening._open();
    } catch (error) {
      await listening.close();
      throw error;
    }
    return listening;
  }

  constructor({ push, level, lost }) {
    this._push = push;
    this._level = level;
    this._lost = lost;
    this._stream = null;
    this._resampler = new Resampler(CAPTURE_HZ, RATE_HZ);
  }

  async _open() {
    const source = globalThis.packetVoiceSource;
    if (source === undefined) this._stream = await openMicrophone(WISHES);
    this._context = new AudioContext({ sampleRate: CAPTURE_HZ });
    let node;
    try {
      node = this._connectable(source);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      await this._context.close(); // Firefox: a microphone of another rate; the worklet resamples
      this._context = new AudioContext();
      node = this._connectable(source);
    }
    await this._context.audioWorklet.addModule(new URL("../voice/audio/capture-worklet.js", import.meta.url));
    await this._context.resume();
    const capture = new AudioWorkletNode(this._context, "capture", {
      processorOptions: { epochMs: performance.timeOrigin },
      channelCount: 1,
      channelCountMode: "explicit",
    });
    const frames = new MessageChannel();
    frames.port2.onmessage = ({ data }) => this._push(this._resampler.process(data.samples));
    capture.port.onmessage = ({ data }) => this._level(data);
    capture.port.postMessage({ wire: frames.port1 }, [frames.port1]);
    capture.onprocessorerror = () => this._lost("worklet_failed");
    node.connect(capture);
    capture.connect(this._context.destination); // silent, but only what is connected is run
    this._capture = capture;
    this._frames = frames.port2;
    const [track] = this._stream?.getAudioTracks() ?? [];
    if (track !== undefined) track.onended = () => this._lost("microphone_gone");
  }

  _connectable(source) {
    return source === undefined ? this._context.createMediaStreamSource(this._stream) : source(this._context);
  }

  /** Let go of the device; what was captured before still arrives until then. */
  async close() {
    this._capture?.port.postMessage({ stopped: true });
    for (const track of this._stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    if (this._context !== undefined && this._context.state !== "closed") await this._context.close();
    if (this._frames !== undefined) this._frames.onmessage = null;
  }
}
