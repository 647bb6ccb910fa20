/**
 * The connection, in a worker: socket, codec and both audio worklets meet here, so that no frame waits for the page.
 *
 * Captured frames arrive through one MessagePort and leave as packets; received frames go to the playback worklet
 * through another. After a lost connection it reconnects with backoff, and resumes the session if it can.
 *
 * Messages from the page: open, audio_ports, configure, vad, caption, enable_port, detect_speech, close. To the page:
 * objects with a `kind`, see call.js.
 */

import { Backoff } from "./backoff.js";
import { Conversation, ServerProtocolError } from "./conversation.js";
import { CLOSE_PROTOCOL_ERROR, afterClose } from "./close-codes.js";
import { FramePool } from "./frame-pool.js";
import { configureFields, hasPersona } from "./persona.js";
import { findRefusal } from "./refusal.js";
import { ReceivedIds } from "./received-ids.js";
import { SendQueue } from "./send-queue.js";
import { RollingPercentiles } from "../percentiles.js";
import { UnackedPackets } from "./unacked-packets.js";
import { RATE_HZ } from "../units.js";
import { LevelDetector } from "../vad/level-detector.js";
import { SpeechGate } from "../vad/speech-gate.js";

const NO_PERSONA = Object.freeze({ voice: "", role: "" });
const TICK_MS = 250;
const REPORT_EVERY_TICKS = 4;
const MAX_QUEUED_FRAMES = 8; // the server's burst limit; it would drop older audio anyway
const MAX_SOCKET_BYTES = 32 * 1024; // about four frames; the rest stays in the send queue, where it can be dropped
const MAX_UNANSWERED_FRAMES = 64;
const CLOSE_TIMEOUT_MS = 2000;
const STABLE_AFTER_MS = 5000;
const STALLED_AFTER_MS = 2500; // the server sends statistics every second
const CLOSE_HEARTBEAT_TIMEOUT = 4013; // a page may only close with 1000 or 3000 to 4999

class Connection {
  constructor({ url, capture, playback, ports, settings, persona }) {
    this._url = url;
    this._ports = ports; // by name
    this._enabledPorts = new Set();
    this._speech = null; // {detector, gate} while speech is detected here, by level
    this._settings = settings;
    this._persona = persona;
    this._isConfigured = false; // this session
    this._backoff = new Backoff();
    this._receivedIds = new ReceivedIds();
    this._unackedPackets = new UnackedPackets();
    this._framePool = new FramePool();
    this._toResend = []; // not acknowledged when the connection was lost
    this._resumeToken = null;
    this._nextAttempt = null; // while it is waited for
    this._isClosing = false;
    this._why = "unreachable"; // why there is no connection; null while there is one
    this._played = { lastPlayedFrame: null, underruns: 0, bufferMs: 0 };
    this._ticks = 0;
    this._droppedFrames = 0;
    this._captions = { sent: 0, dropped: 0 };
    this._isStalled = false;
    this.setAudioPorts({ capture, playback });
    this._timer = setInterval(() => this._tick(), TICK_MS);
    this._connect(false);
  }

  /** The worklets; later ones take the place of the first. */
  setAudioPorts({ capture, playback }) {
    this._playback = playback;
    capture.onmessage = ({ data }) => this._onCapturedFrame(data);
    playback.onmessage = ({ data }) => this._onPlaybackMessage(data);
  }

  _onPlaybackMessage(message) {
    if (message.used === undefined) Object.assign(this._played, message);
    else this._framePool.give(message.used);
  }

  configure(settings) {
    Object.assign(this._settings, settings);
    this._sendMetadata({ type: "configure", ...settings });
  }

  vad(speaking) {
    this._sendMetadata({ type: "vad", speaking });
  }

  /** Send a caption of the user's speech: the utterance so far, or its final text. */
  caption({ text, final }) {
    if (this._socket.readyState !== WebSocket.OPEN || !this._conversation.isReady) return;
    this._conversation.sendText({ text, final });
    this._captions.sent += 1;
    this._flush();
  }

  /** Whether captured frames are posted to a port (`vad` or `captions`); unread messages would pile up. */
  enablePort(name, enabled) {
    if (enabled) this._enabledPorts.add(name);
    else this._enabledPorts.delete(name);
  }

  /** Whether to report speech by its level, which takes less than a worker of its own. */
  detectSpeech(enabled) {
    if (this._speech?.gate.speaking) postMessage({ kind: "speaking", speaking: false });
    this._speech = enabled ? { detector: new LevelDetector(RATE_HZ), gate: new SpeechGate() } : null;
  }

  /** Send `bye`, give the server a moment to close the connection, then end. */
  close() {
    this._isClosing = true;
    this._nextAttempt = null;
    clearTimeout(this._retry);
    this._playback.postMessage({ kind: "pause" });
    if (this._socket?.readyState !== WebSocket.OPEN) {
      this._finish({ why: "stopped" });
      return;
    }
    this._sendMetadata({ type: "bye" });
    this._retry = setTimeout(() => this._socket.close(1000), CLOSE_TIMEOUT_MS);
  }

  /** Reconnect without waiting any longer. */
  tryNow() {
    if (this._nextAttempt === null) return;
    clearTimeout(this._retry);
    this._nextAttempt();
  }

  _connect(resuming) {
    this._nextAttempt = null;
    const query = resuming ? `?resume=${encodeURIComponent(this._resumeToken)}` : "";
    if (!resuming) this._isConfigured = false;
    this._sendQueue = new SendQueue({ maxAudioFrames: MAX_QUEUED_FRAMES, unackedPackets: this._unackedPackets });
    this._conversation = new Conversation({
      sendQueue: this._sendQueue,
      receivedIds: this._receivedIds,
      unackedPackets: this._unackedPackets,
      framePool: this._framePool,
      nowMs: performance.now(),
      epochMs: () => performance.timeOrigin + performance.now(),
    });
    this._error = null;
    this._roundTrips = new RollingPercentiles(64);
    this._sentMs = new Map(); // by timestamp, which the server echoes bit for bit
    this._played.lastPlayedFrame = null;
    const socket = new WebSocket(this._url + query);
    socket.binaryType = "arraybuffer";
    this._wasOpen = false;
    socket.onopen = () => {
      this._why = null;
      this._wasOpen = true;
    };
    socket.onmessage = ({ data }) => this._onMessage(data);
    socket.onclose = ({ code }) => this._onClose(socket, code);
    this._socket = socket;
    postMessage({ kind: "connecting", resuming });
  }

  _onCapturedFrame({ samples, lastMs }) {
    for (const name of this._enabledPorts) this._ports[name].postMessage({ samples });
    if (this._speech !== null) this._detectSpeech(samples);
    if (this._conversation.isReady) this._recordSendTime(lastMs);
    this._conversation.sendAudio(samples, lastMs);
    this._flush();
  }

  _detectSpeech(samples) {
    const { detector, gate } = this._speech;
    for (const probability of detector.process(samples)) {
      if (gate.push(probability)) postMessage({ kind: "speaking", speaking: gate.speaking });
    }
  }

  /** Remember when a frame was sent; beyond the limit the oldest is forgotten. */
  _recordSendTime(lastMs) {
    this._sentMs.set(lastMs, performance.now());
    if (this._sentMs.size > MAX_UNANSWERED_FRAMES) this._sentMs.delete(this._sentMs.keys().next().value);
  }

  _recordRoundTrip(echoMs) {
    const sentMs = this._sentMs.get(echoMs);
    if (sentMs === undefined) return;
    this._roundTrips.add(performance.now() - sentMs);
    for (const earlierMs of this._sentMs.keys()) {
      this._sentMs.delete(earlierMs); // older frames were dropped, or produced no audio
      if (earlierMs === echoMs) return;
    }
  }

  _sendMetadata(metadata) {
    if (this._socket.readyState !== WebSocket.OPEN) return;
    this._conversation.sendMetadata(metadata);
    this._flush();
  }

  _onMessage(data) {
    this._receivedMs = performance.now();
    try {
      for (const event of this._conversation.receive(data, performance.now())) this._onProtocolEvent(event);
    } catch (error) {
      if (!(error instanceof ServerProtocolError)) throw error;
      this._error = { code: "out_of_turn", message: error.message };
      this._abort(CLOSE_PROTOCOL_ERROR);
    }
    this._flush();
  }

  _onProtocolEvent(event) {
    switch (event.kind) {
      case "audio":
        if (this._conversation.isPaused) {
          this._framePool.give(event.samples); // playback has paused
          return;
        }
        this._recordRoundTrip(event.echoMs);
        this._playback.postMessage(
          { kind: "frame", samples: event.samples, echoMs: event.echoMs, index: event.index },
          [event.samples.buffer],
        );
        return;
      case "connection_established":
        this._resumeToken = event.resumeToken ?? this._resumeToken;
        if (!event.model.voices) this._persona = NO_PERSONA; // this model takes none
        break;
      case "resumed":
        this._resumeToken = event.resumeToken;
        for (const packet of this._toResend.splice(0)) this._sendQueue.push(packet);
        this._readyMs = performance.now();
        break;
      case "ready": // a new session: `configure` before the first frame applies from the first frame
        this._toResend = [];
        if (!this._isConfigured) this._configureSession(event);
        if (!hasPersona(event, this._persona)) {
          this._conversation.hold(); // until the session begins as it was asked to
          postMessage({ kind: "preparing" });
          return;
        }
        this._readyMs = performance.now();
        break;
      case "paused": // what is in flight will not be answered, and silence is intended
        this._sentMs.clear();
        this._playback.postMessage({ kind: "pause" });
        break;
      case "continued":
        this._readyMs = performance.now();
        break;
      case "dropped":
        if (this._conversation.isPaused) return; // sent before the page knew of the pause
        break;
      case "error":
        if (event.code === "prompt_refused") this._persona = NO_PERSONA; // the session begins without
        else this._error = event;
        break;
      default:
    }
    const { resumeToken: _token, ...publicEvent } = event;
    postMessage(publicEvent);
  }

  _configureSession(ready) {
    const persona = hasPersona(ready, this._persona) ? NO_PERSONA : this._persona;
    this._conversation.sendMetadata({ type: "configure", ...this._settings, ...configureFields(persona) });
    this._isConfigured = true;
  }

  _flush() {
    if (this._socket.readyState !== WebSocket.OPEN) return;
    while (this._socket.bufferedAmount < MAX_SOCKET_BYTES) {
      const message = this._sendQueue.shift();
      if (message === null) return;
      this._socket.send(message);
    }
  }

  _tick() {
    const nowMs = performance.now();
    if (this._socket.readyState === WebSocket.OPEN) {
      this._setStalled(this._conversation.isReady && nowMs - this._receivedMs > STALLED_AFTER_MS);
      if (this._conversation.tick(nowMs)) this._abort(CLOSE_HEARTBEAT_TIMEOUT);
      if (this._conversation.isReady && nowMs - this._readyMs > STABLE_AFTER_MS) this._backoff.reset();
      this._flush();
    }
    this._ticks += 1;
    if (this._ticks % REPORT_EVERY_TICKS === 0) this._report();
  }

  _setStalled(stalled) {
    if (stalled === this._isStalled) return;
    this._isStalled = stalled;
    postMessage({ kind: "stalled", stalled });
  }

  _report() {
    const { lastPlayedFrame, underruns, bufferMs } = this._played;
    const stats = { type: "client_stats", underruns, bufferMs };
    if (lastPlayedFrame !== null) stats.lastPlayedFrame = lastPlayedFrame;
    if (this._conversation.isReady) this._sendMetadata(stats);
    postMessage({
      kind: "connection_stats",
      roundTrip: this._roundTrips.summary(),
      unanswered: this._sentMs.size,
      sendQueueDepth: this._sendQueue.depth,
      socketBytes: this._socket.bufferedAmount,
      droppedFrames: this._droppedFrames + this._sendQueue.droppedFrames,
      captions: {
        sent: this._captions.sent,
        dropped: this._captions.dropped + this._sendQueue.droppedPartials,
        acked: this._unackedPackets.acked,
        unacked: this._unackedPackets.count + this._toResend.length,
      },
      ignored: this._conversation.ignored,
    });
  }

  /** Close without waiting for the peer, which may be gone: a closing handshake can take a minute to time out. */
  _abort(code) {
    const socket = this._socket;
    socket.close(code);
    this._onClose(socket, code);
  }

  async _onClose(socket, code) {
    if (socket !== this._socket || socket.onclose === null) return;
    socket.onclose = null;
    socket.onmessage = null;
    this._setStalled(false);
    const refusal = this._wasOpen || this._isClosing ? null : await findRefusal(this._url);
    if (this._isFinished) return; // the user has ended the call meanwhile
    if (refusal?.isPermanent && !this._isClosing) {
      this._finish(refusal);
      return;
    }
    this._droppedFrames += this._sendQueue.droppedFrames;
    this._captions.dropped += this._sendQueue.droppedPartials;
    this._toResend.push(...this._unackedPackets.takeAll(), ...this._sendQueue.unsentWantingAck);
    this._playback.postMessage({ kind: "pause" });
    const next = afterClose({ code, error: this._error, closing: this._isClosing });
    if (!next.reconnect) {
      this._finish({ why: next.why, message: this._error?.message });
      return;
    }
    const resuming = next.resume && this._resumeToken !== null;
    if (!resuming) this._resumeToken = null;
    // A failed attempt to reconnect keeps the first reason, unless the server itself gives another.
    const isKnown = refusal !== null && refusal.why !== "unreachable";
    this._why = isKnown ? refusal.why : (this._why ?? next.why);
    const inMs = this._backoff.next(refusal?.retryAfterMs ?? next.retryAfterMs);
    const { message, retryAfterMs } = refusal ?? this._error ?? {};
    postMessage({ kind: "lost", why: this._why, message, retryAfterMs, resuming, inMs });
    this._nextAttempt = () => this._connect(resuming);
    this._retry = setTimeout(this._nextAttempt, inMs);
  }

  _finish(result) {
    clearInterval(this._timer);
    clearTimeout(this._retry);
    this._nextAttempt = null;
    this._socket.onclose = null;
    this._socket.close();
    this._isFinished = true;
    postMessage({ kind: "ended", ...result });
  }
}

/** The audio path without a server: captured frames go straight to the playback worklet. */
class EchoTest {
  constructor(ports) {
    this._frames = 0;
    this.setAudioPorts(ports);
  }

  setAudioPorts({ capture, playback }) {
    capture.onmessage = ({ data: { samples, lastMs } }) => {
      playback.postMessage({ kind: "frame", samples, echoMs: lastMs, index: this._frames }, [samples.buffer]);
      this._frames += 1;
    };
    playback.onmessage = () => {}; // unread messages would pile up
  }

  /** There is no server to configure, nor to connect to. */
  configure() {}

  tryNow() {}

  close() {
    postMessage({ kind: "ended", why: "stopped" });
  }
}

let current = null;

onmessage = ({ data }) => {
  switch (data.kind) {
    case "open":
      current = data.echo ? new EchoTest(data) : new Connection(data);
      break;
    case "audio_ports":
      current.setAudioPorts(data);
      break;
    case "configure":
      current.configure(data.settings);
      break;
    case "vad":
      current.vad(data.speaking);
      break;
    case "caption":
      current.caption(data);
      break;
    case "enable_port":
      current.enablePort(data.name, data.enabled);
      break;
    case "detect_speech":
      current.detectSpeech(data.enabled);
      break;
    case "try_now":
      current.tryNow();
      break;
    case "close":
      current.close();
      break;
    default:
      throw new TypeError(`unknown message: ${data.kind}`);
  }
};
