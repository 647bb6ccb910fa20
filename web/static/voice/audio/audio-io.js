/**
 * The audio path: microphone → capture worklet, playback worklet → loudspeaker, on one audio clock.
 *
 * The context runs at 24 kHz; if the browser refuses that for the microphone, at another rate, and both worklets
 * resample. That can also happen when the microphone is changed: then the path is built again and takes the place of
 * the old one. Packets are not handled here: the worklets are connected to the connection worker by MessagePorts.
 */

import { newContext, openContext, watchContext } from "./context.js";
import { AudioError } from "./audio-error.js";
import { grantedBy, hasOutput, isMicrophoneDenied, openMicrophone, stopStream } from "./microphone.js";
import { RATE_HZ } from "../units.js";

const WORKLETS = ["capture", "playback"];
const worklets = new WeakMap(); // by context: promise of their modules

export class AudioIO {
  /**
   * Open everything. Must be called from a user gesture, or the context stays suspended. Throws AudioError.
   *
   * `onEvent(event)` receives the reports of the worklets and changes of the devices. Without `microphone` the model
   * hears silence, and recordings (see `ask`).
   */
  static async open(preferences, onEvent, { microphone = true } = {}) {
    if (globalThis.AudioContext === undefined || globalThis.AudioWorkletNode === undefined) {
      throw new AudioError(globalThis.isSecureContext ? "no_audio_worklet" : "insecure_context");
    }
    const audio = new AudioIO(preferences, onEvent);
    try {
      await audio._open(microphone);
    } catch (error) {
      await audio.close();
      throw asAudioError(error);
    }
    return audio;
  }

  constructor(preferences, onEvent) {
    this._preferences = { ...preferences };
    this._onEvent = onEvent;
    this._stream = null;
    this._source = null; // the microphone's node; null without one
    this._context = null;
    this._attach = null;
    this._question = null; // the recording being played
    this._muted = false;
    this._bargeIn = null;
    this._recording = false;
    this._unwatch = () => {};
    this._isMicrophoneLost = false;
    this._isOutputLost = false;
    this._onDeviceChange = () => this._adaptToDevices();
  }

  async _open(microphone) {
    this._context = newContext(RATE_HZ);
    loadWorklets(this._context).catch(() => {}); // while the microphone opens; reported by _start
    const source = globalThis.packetVoiceSource; // tests provide a bit-exact source
    if (microphone && source === undefined) this._stream = await openMicrophone(this._preferences);
    if (microphone) {
      const connect = source ?? ((context) => context.createMediaStreamSource(this._stream));
      const opened = await openContext(connect, this._context, rateOf(this._stream));
      this._context = opened.context;
      this._source = opened.source;
    }
    await this._start();
    if (this._stream !== null) this._watchMicrophone();
    navigator.mediaDevices?.addEventListener?.("devicechange", this._onDeviceChange);
  }

  /** Build the path in the current context. */
  async _start() {
    await loadWorklets(this._context);
    await this._selectOutput();
    await this._context.resume();
    this._build();
    this._unwatch = watchContext(this._context, (state) => this._onEvent({ kind: "audio_state", state }));
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
    this._source?.connect(this._capture);
    this._capture.port.postMessage({ muted: this._muted, recording: this._recording });
    const { _bargeIn: bargeIn, _recording: recording } = this;
    this._playback.port.postMessage({ bargeIn, recording, volume: this._preferences.volume });
    if (this._attach !== null) this._connectWorklets();
  }

  _watchMicrophone() {
    const [track] = this._stream.getAudioTracks();
    track.onended = () => this._onMicrophoneLost();
    track.onmute = () => this._onEvent({ kind: "source_muted", muted: true });
    track.onunmute = () => this._onEvent({ kind: "source_muted", muted: false });
    this._onEvent({ kind: "source_muted", muted: track.muted });
    const { deviceId } = track.getSettings();
    const isOther = this._preferences.deviceId && deviceId && deviceId !== this._preferences.deviceId;
    if (isOther) this._onEvent({ kind: "microphone_changed", label: track.label, why: "missing" });
  }

  /** The microphone was unplugged, or its permission was taken back: use another one, or say so. */
  async _onMicrophoneLost() {
    if (await isMicrophoneDenied()) {
      this._onEvent({ kind: "audio_failed", why: "microphone_revoked" });
      return;
    }
    try {
      await this.switchMicrophone({ ...this._preferences, deviceId: "" });
      this._onEvent({ kind: "microphone_changed", label: grantedBy(this._stream).label, why: "lost" });
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      this._isMicrophoneLost = true; // until a device is connected
      this._onEvent({ kind: "audio_failed", why: "microphone_gone" });
    }
  }

  /** Devices were connected or removed: what was lost may be back, and the selected output may be gone. */
  async _adaptToDevices() {
    if (this._isMicrophoneLost) {
      this._isMicrophoneLost = false;
      await this._onMicrophoneLost();
    }
    const { outputId } = this._preferences;
    if (!outputId || this._context.setSinkId === undefined) return;
    const isThere = await hasOutput(outputId);
    if (isThere && this._isOutputLost) await this._selectOutput();
    else if (isThere === false && !this._isOutputLost) await this._loseOutput();
  }

  /** Play through the default device until the selected one is connected again. */
  async _loseOutput() {
    this._isOutputLost = true;
    this._onEvent({ kind: "output_missing" });
    await this._context.setSinkId("").catch(() => {}); // the default is used already
  }

  get hasMicrophone() {
    return this._source !== null;
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
      hasMicrophone: this.hasMicrophone,
    };
  }

  /** `attach({capture, playback})` gives both MessagePorts to the connection worker, again after each rebuild. */
  connect(attach) {
    this._attach = attach;
    this._connectWorklets();
  }

  _connectWorklets() {
    const [up, down] = [new MessageChannel(), new MessageChannel()];
    this._capture.port.postMessage({ connection: up.port1 }, [up.port1]);
    this._playback.port.postMessage({ connection: down.port1 }, [down.port1]);
    this._attach({ capture: up.port2, playback: down.port2 });
  }

  mute(muted) {
    this._muted = muted;
    if (this._question === null) this._capture.port.postMessage({ muted });
  }

  /** `duck` or `flush` while the user speaks over the agent; null otherwise. */
  setBargeIn(mode) {
    this._bargeIn = mode;
    this._playback.port.postMessage({ bargeIn: mode });
  }

  /** The volume of the agent; 1 is as received. */
  setVolume(volume) {
    this._preferences.volume = volume;
    this._playback.port.postMessage({ volume });
  }

  record(recording) {
    this._recording = recording;
    this._capture.port.postMessage({ recording });
    this._playback.port.postMessage({ recording });
  }

  /** Play the recording at `url` into the capture path instead of the microphone, and to the loudspeaker. */
  async ask(url) {
    const buffer = await this._decode(url);
    if (this._context.state === "closed") return; // the call ended meanwhile
    this._endQuestion();
    const node = this._context.createBufferSource();
    node.buffer = buffer;
    node.connect(this._capture);
    node.connect(this._context.destination);
    this._source?.disconnect();
    this._capture.port.postMessage({ muted: false });
    this._question = node;
    await new Promise((resolve) => {
      node.onended = resolve;
      node.start();
    });
    if (this._question === node) this._endQuestion();
  }

  async _decode(url) {
    try {
      const response = await fetch(url);
      if (response.ok) return await this._context.decodeAudioData(await response.arrayBuffer());
    } catch (error) {
      throw new AudioError("question_failed", error); // no connection, or not a recording
    }
    throw new AudioError("question_failed");
  }

  /** Give the capture path back to the microphone. */
  _endQuestion() {
    if (this._question === null) return;
    this._question.onended?.();
    this._question.disconnect();
    this._question = null;
    this._source?.connect(this._capture);
    this._capture.port.postMessage({ muted: this._muted });
  }

  /** Switch the microphone, or open the first one. Throws AudioError; then the old one is kept. */
  async switchMicrophone(preferences) {
    if (globalThis.packetVoiceSource !== undefined) return;
    let stream = null;
    try {
      stream = await openMicrophone(preferences);
      await this._use(stream);
    } catch (error) {
      stopStream(stream);
      throw asAudioError(error);
    }
    this._preferences = { ...preferences };
    this._isMicrophoneLost = false;
    this._watchMicrophone();
  }

  async _use(stream) {
    const old = this._stream;
    let source;
    try {
      source = this._context.createMediaStreamSource(stream);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      await this._rebuild(stream);
      stopStream(old);
      return;
    }
    this._source?.disconnect();
    if (this._question === null) source.connect(this._capture);
    this._source = source;
    this._stream = stream;
    stopStream(old);
  }

  /** The microphone does not fit the context: build the path again in one that it fits. */
  async _rebuild(stream) {
    const connect = (context) => context.createMediaStreamSource(stream);
    const { context, source } = await openContext(connect, newContext(RATE_HZ), rateOf(stream));
    this._endQuestion();
    const old = { context: this._context, capture: this._capture, playback: this._playback };
    const kept = { _context: this._context, _source: this._source, _unwatch: this._unwatch };
    Object.assign(this, { _context: context, _source: source });
    try {
      await this._start();
    } catch (error) {
      Object.assign(this, kept, { _capture: old.capture, _playback: old.playback });
      await context.close();
      throw error;
    }
    this._stream = stream;
    kept._unwatch();
    old.capture.port.postMessage({ stopped: true });
    old.playback.port.postMessage({ stopped: true });
    await old.context.close();
  }

  /** Select the output device, if the browser supports it; empty is the system default. */
  async setOutput(outputId) {
    this._preferences.outputId = outputId;
    if (this._context.sinkId || outputId) await this._selectOutput();
  }

  async _selectOutput() {
    const { outputId } = this._preferences;
    if (this._context.setSinkId === undefined || (!outputId && !this._context.sinkId)) return;
    try {
      await this._context.setSinkId(outputId);
      if (this._isOutputLost) this._onEvent({ kind: "output_found" });
      this._isOutputLost = false;
    } catch {
      await this._loseOutput(); // unplugged or refused
    }
  }

  resume() {
    return this._context.resume();
  }

  async close() {
    navigator.mediaDevices?.removeEventListener?.("devicechange", this._onDeviceChange);
    this._unwatch();
    this._capture?.port.postMessage({ stopped: true });
    this._playback?.port.postMessage({ stopped: true });
    stopStream(this._stream);
    if (this._context === null || this._context.state === "closed") return;
    await this._context.close();
  }
}

function loadWorklets(context) {
  if (!worklets.has(context)) worklets.set(context, addWorklets(context));
  return worklets.get(context);
}

async function addWorklets(context) {
  const urls = WORKLETS.map((name) => new URL(`./${name}-worklet.js`, import.meta.url));
  await Promise.all(urls.map((url) => context.audioWorklet.addModule(url)));
}

const rateOf = (stream) => stream?.getAudioTracks()[0]?.getSettings().sampleRate;

/** Whatever a browser throws is one problem that the page can show. */
function asAudioError(error) {
  if (error instanceof AudioError) return error;
  console.error(error);
  return new AudioError("audio_failed", error);
}
