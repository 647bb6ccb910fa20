/**
 * The audio path: microphone → capture worklet, playback worklet → loudspeaker, on one audio clock.
 *
 * The context runs at 24 kHz; if the browser refuses that for the microphone, at its own rate, and both worklets
 * resample. Packets are not handled here: the worklets are connected to the connection worker by MessagePorts.
 */

import { AudioError, grantedBy, openMicrophone } from "./microphone.js";
import { RATE_HZ } from "../units.js";

export class AudioIO {
  /**
   * Open everything. Must be called from a user gesture, or the context stays suspended. Throws AudioError.
   *
   * `onEvent(event)` receives the reports of the worklets and changes of the devices.
   */
  static async open(preferences, onEvent) {
    if (globalThis.AudioContext === undefined || globalThis.AudioWorkletNode === undefined) {
      throw new AudioError(globalThis.isSecureContext ? "no_audio_worklet" : "insecure_context");
    }
    const audio = new AudioIO(onEvent);
    try {
      await audio._open(preferences);
    } catch (error) {
      await audio.close();
      throw error;
    }
    return audio;
  }

  constructor(onEvent) {
    this._onEvent = onEvent;
    this._stream = null;
    this._context = null;
  }

  async _open(preferences) {
    this._context = newContext(RATE_HZ);
    const source = globalThis.packetVoiceSource; // tests provide a bit-exact source
    if (source === undefined) this._stream = await openMicrophone(preferences);
    try {
      this._source = this._connectable(source);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      await this._context.close(); // Firefox: the microphone must have the rate of the context
      this._context = newContext();
      this._source = this._connectable(source);
    }
    await this.setOutput(preferences.outputId);
    const modules = ["capture", "playback"].map((name) => new URL(`./${name}-worklet.js`, import.meta.url));
    await Promise.all(modules.map((url) => this._context.audioWorklet.addModule(url)));
    await this._context.resume();
    this._build();
    this._watch();
  }

  _connectable(source) {
    return source === undefined ? this._context.createMediaStreamSource(this._stream) : source(this._context);
  }

  _build() {
    const context = this._context;
    const epochMs = performance.timeOrigin + performance.now() - context.currentTime * 1000;
    const options = { processorOptions: { epochMs }, channelCount: 1, channelCountMode: "explicit" };
    this._capture = new AudioWorkletNode(context, "capture", options);
    this._playback = new AudioWorkletNode(context, "playback", { ...options, numberOfInputs: 0 });
    for (const node of [this._capture, this._playback]) {
      node.port.onmessage = ({ data }) => this._onEvent(data);
      node.onprocessorerror = () => this._onEvent({ kind: "audio_failed", why: "worklet_failed" });
      node.connect(context.destination); // capture is silent, but only connected nodes are processed
    }
    this._source.connect(this._capture);
  }

  _watch() {
    this._context.onstatechange = () => this._onEvent({ kind: "audio_state", state: this._context.state });
    this._watchMicrophone();
  }

  _watchMicrophone() {
    const [track] = this._stream?.getAudioTracks() ?? [];
    if (track === undefined) return;
    track.onended = () => this._onEvent({ kind: "audio_failed", why: "microphone_gone" });
    track.onmute = () => this._onEvent({ kind: "source_muted", muted: true });
    track.onunmute = () => this._onEvent({ kind: "source_muted", muted: false });
    this._onEvent({ kind: "source_muted", muted: track.muted });
  }

  /** The state of the path: sample rate, device latency, granted microphone settings. */
  describe() {
    const context = this._context;
    const granted = this._stream === null ? null : grantedBy(this._stream);
    return {
      state: context.state,
      rateHz: context.sampleRate,
      outputLatencyMs: 1000 * ((context.baseLatency ?? 0) + (context.outputLatency ?? 0)),
      inputLatencyMs: granted?.latency === undefined ? null : 1000 * granted.latency,
      granted,
    };
  }

  /** Connect both worklets to the connection worker through these MessagePorts. */
  connect({ capture, playback }) {
    this._capture.port.postMessage({ connection: capture }, [capture]);
    this._playback.port.postMessage({ connection: playback }, [playback]);
  }

  mute(muted) {
    this._capture.port.postMessage({ muted });
  }

  /** `duck` or `flush` while the user speaks over the agent; null otherwise. */
  setBargeIn(mode) {
    this._playback.port.postMessage({ bargeIn: mode });
  }

  record(recording) {
    this._capture.port.postMessage({ recording });
    this._playback.port.postMessage({ recording });
  }

  /** Switch the microphone without interrupting the frames. Throws AudioError; then the old one is kept. */
  async switchMicrophone(preferences) {
    if (globalThis.packetVoiceSource !== undefined) return;
    const stream = await openMicrophone(preferences);
    const source = this._context.createMediaStreamSource(stream);
    this._source.disconnect();
    source.connect(this._capture);
    this._source = source;
    stop(this._stream);
    this._stream = stream;
    this._watchMicrophone();
  }

  /** Select the output device, if the browser supports it; empty is the system default. */
  async setOutput(outputId) {
    if (!outputId || this._context.setSinkId === undefined) return;
    try {
      await this._context.setSinkId(outputId);
    } catch (error) {
      if (error.name !== "NotFoundError" && error.name !== "NotAllowedError") throw error;
      this._onEvent({ kind: "output_missing" }); // unplugged; the default device is used
    }
  }

  resume() {
    return this._context.resume();
  }

  async close() {
    this._capture?.port.postMessage({ stopped: true });
    this._playback?.port.postMessage({ stopped: true });
    stop(this._stream);
    if (this._context === null || this._context.state === "closed") return;
    this._context.onstatechange = null;
    await this._context.close();
  }
}

function newContext(sampleRate) {
  const options = { latencyHint: "interactive" };
  try {
    return new AudioContext(sampleRate === undefined ? options : { ...options, sampleRate });
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    return new AudioContext(options);
  }
}

function stop(stream) {
  for (const track of stream?.getTracks() ?? []) {
    track.onended = null;
    track.stop();
  }
}
