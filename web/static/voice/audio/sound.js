/**
 * One audio clock for both directions: microphone → capture worklet, playback worklet → loudspeaker.
 *
 * The context runs at 24 kHz; where the browser refuses that beside a microphone of another rate, at its
 * own, and both worklets resample. What does not belong here: packets. Ports to the wire are handed out.
 */

import { SoundError, grantedBy, openMicrophone } from "./microphone.js";
import { RATE_HZ } from "../units.js";

export class Sound {
  /**
   * Open everything; call it from a gesture, or the context stays suspended. Throws SoundError.
   *
   * `heed(event)` is given what the worklets report, and what becomes of the devices.
   */
  static async open(preferences, heed) {
    if (globalThis.AudioContext === undefined || globalThis.AudioWorkletNode === undefined) {
      throw new SoundError(globalThis.isSecureContext ? "no_audio_worklet" : "insecure_context");
    }
    const sound = new Sound(heed);
    try {
      await sound._open(preferences);
    } catch (error) {
      await sound.close();
      throw error;
    }
    return sound;
  }

  constructor(heed) {
    this._heed = heed;
    this._stream = null;
    this._context = null;
  }

  async _open(preferences) {
    this._context = newContext(RATE_HZ);
    const source = globalThis.packetVoiceSource; // a page under test brings its own bit-exact one
    if (source === undefined) this._stream = await openMicrophone(preferences);
    try {
      this._source = this._connectable(source);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      await this._context.close(); // Firefox: a microphone of another rate does not fit into 24 kHz
      this._context = newContext();
      this._source = this._connectable(source);
    }
    await this.chooseOutput(preferences.outputId);
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
      node.port.onmessage = ({ data }) => this._heed(data);
      node.onprocessorerror = () => this._heed({ kind: "sound_lost", why: "worklet_failed" });
      node.connect(context.destination); // the capture node is silent, but only what is connected is run
    }
    this._source.connect(this._capture);
  }

  _watch() {
    this._context.onstatechange = () => this._heed({ kind: "sound", state: this._context.state });
    this._watchMicrophone();
  }

  _watchMicrophone() {
    const [track] = this._stream?.getAudioTracks() ?? [];
    if (track === undefined) return;
    track.onended = () => this._heed({ kind: "sound_lost", why: "microphone_gone" });
    track.onmute = () => this._heed({ kind: "source_muted", muted: true });
    track.onunmute = () => this._heed({ kind: "source_muted", muted: false });
    this._heed({ kind: "source_muted", muted: track.muted });
  }

  /** What people may want to know of the path: rates, device latency, what the microphone was granted. */
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

  /** Join both worklets to the wire through these MessagePorts. */
  wire({ capture, playback }) {
    this._capture.port.postMessage({ wire: capture }, [capture]);
    this._playback.port.postMessage({ wire: playback }, [playback]);
  }

  mute(muted) {
    this._capture.port.postMessage({ muted });
  }

  /** The user speaks over the agent: `duck`, `flush`, or null when it is over. */
  barge(how) {
    this._playback.port.postMessage({ barge: how });
  }

  record(recording) {
    this._capture.port.postMessage({ recording });
    this._playback.port.postMessage({ recording });
  }

  /** Change the microphone without a pause in the frames. Throws SoundError; then the old one stays. */
  async changeMicrophone(preferences) {
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

  /** Play through another device, where the browser lets pages choose; empty is the system's choice. */
  async chooseOutput(outputId) {
    if (!outputId || this._context.setSinkId === undefined) return;
    try {
      await this._context.setSinkId(outputId);
    } catch (error) {
      if (error.name !== "NotFoundError" && error.name !== "NotAllowedError") throw error;
      this._heed({ kind: "output_missing" }); // it was unplugged; the default one plays
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
