/**
 * The connection never waits for the page: socket, codec and both sound worklets meet in this worker.
 *
 * Frames from the microphone come through one MessagePort and go out as packets; packets come in and go
 * to the loudspeaker through another. The page is told what happened and decides only what people decide.
 * After a cut it comes back with growing pauses, with the session's token where there is one.
 *
 * From the page: open, configure, vad, words, listen, close. To the page: objects with a `kind`; see call.js.
 */

import { Backoff } from "./backoff.js";
import { Conversation, ServerProtocolError } from "./conversation.js";
import { CLOSE_PROTOCOL_ERROR, afterClose } from "./close-codes.js";
import { Heard } from "./received-ids.js";
import { Outbox } from "./send-queue.js";
import { Window } from "../percentiles.js";
import { Receipts } from "./unacked-packets.js";

const TICK_MS = 250;
const REPORT_EVERY_TICKS = 4;
const AUDIO_LIMIT_FRAMES = 8; // the server's burst; older audio would only be dropped over there
const FULL_BYTES = 32 * 1024; // about four frames in the socket; the rest waits where it can be dropped
const SENT_LIMIT_FRAMES = 64;
const PARTING_MS = 2000;
const STEADY_MS = 5000;
const CLOSE_SILENT = 4013; // a page may only close with 1000 or 3000 to 4999

class Wire {
  constructor({ url, capture, playback, listeners, settings }) {
    this._url = url;
    this._playback = playback;
    this._listeners = listeners; // ports by name
    this._listening = new Set();
    this._settings = settings;
    this._backoff = new Backoff();
    this._heard = new Heard();
    this._receipts = new Receipts();
    this._again = []; // what was not acknowledged when the connection broke
    this._resumeToken = null;
    this._parted = false;
    this._why = "unreachable"; // why there is no connection, until there is one
    this._played = { lastPlayedFrame: null, underruns: 0, bufferMs: 0 };
    this._ticks = 0;
    this._droppedFrames = 0;
    this._words = { written: 0, leftOut: 0 };
    capture.onmessage = ({ data }) => this._speak(data);
    playback.onmessage = ({ data }) => Object.assign(this._played, data);
    this._timer = setInterval(() => this._tick(), TICK_MS);
    this._connect(false);
  }

  configure(settings) {
    Object.assign(this._settings, settings);
    this._tell({ type: "configure", ...settings });
  }

  vad(speaking) {
    this._tell({ type: "vad", speaking });
  }

  /** What the user says, so far or closed. */
  words({ text, final }) {
    if (this._socket.readyState !== WebSocket.OPEN || !this._conversation.isReady) return;
    this._conversation.write({ text, final });
    this._words.written += 1;
    this._flush();
  }

  /** Whether `who` (vad or words) is fed the frames; a port that nobody reads would fill up for ever. */
  listen(who, listening) {
    if (listening) this._listening.add(who);
    else this._listening.delete(who);
  }

  /** Say goodbye, hear the server out for a moment, end. */
  close() {
    this._parted = true;
    clearTimeout(this._retry);
    this._playback.postMessage({ kind: "pause" });
    if (this._socket?.readyState !== WebSocket.OPEN) {
      this._end({ why: "stopped" });
      return;
    }
    this._tell({ type: "bye" });
    this._retry = setTimeout(() => this._socket.close(1000), PARTING_MS);
  }

  _connect(resuming) {
    const query = resuming ? `?resume=${encodeURIComponent(this._resumeToken)}` : "";
    this._outbox = new Outbox({ audioLimit: AUDIO_LIMIT_FRAMES, receipts: this._receipts });
    this._conversation = new Conversation({
      outbox: this._outbox,
      heard: this._heard,
      receipts: this._receipts,
      nowMs: performance.now(),
      epochMs: () => performance.timeOrigin + performance.now(),
    });
    this._error = null;
    this._roundTrips = new Window(64);
    this._sentMs = new Map(); // by timestamp, which the server echoes bit for bit
    this._played.lastPlayedFrame = null;
    const socket = new WebSocket(this._url + query);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this._why = null;
    };
    socket.onmessage = ({ data }) => this._receive(data);
    socket.onclose = ({ code }) => this._closed(socket, code);
    this._socket = socket;
    postMessage({ kind: "connecting", resuming });
  }

  _speak({ samples, lastMs }) {
    for (const who of this._listening) this._listeners[who].postMessage({ samples });
    if (this._conversation.isReady) this._remember(lastMs);
    this._conversation.speak(samples, lastMs);
    this._flush();
  }

  /** When a frame went out; of too many without an answer the oldest is forgotten. */
  _remember(lastMs) {
    this._sentMs.set(lastMs, performance.now());
    if (this._sentMs.size > SENT_LIMIT_FRAMES) this._sentMs.delete(this._sentMs.keys().next().value);
  }

  _measure(echoMs) {
    const sentMs = this._sentMs.get(echoMs);
    if (sentMs === undefined) return;
    this._roundTrips.add(performance.now() - sentMs);
    for (const earlierMs of this._sentMs.keys()) {
      this._sentMs.delete(earlierMs); // what is older was dropped, or released no sound
      if (earlierMs === echoMs) return;
    }
  }

  _tell(metadata) {
    if (this._socket.readyState !== WebSocket.OPEN) return;
    this._conversation.tell(metadata);
    this._flush();
  }

  _receive(data) {
    try {
      for (const event of this._conversation.receive(data, performance.now())) this._heed(event);
    } catch (error) {
      if (!(error instanceof ServerProtocolError)) throw error;
      this._error = { code: "out_of_turn", message: error.message };
      this._abandon(CLOSE_PROTOCOL_ERROR);
    }
    this._flush();
  }

  _heed(event) {
    switch (event.kind) {
      case "audio":
        this._measure(event.echoMs);
        this._playback.postMessage(
          { kind: "frame", samples: event.samples, echoMs: event.echoMs, index: event.index },
          [event.samples.buffer],
        );
        return;
      case "connection_established":
        this._resumeToken = event.resumeToken ?? this._resumeToken;
        break;
      case "resumed":
        this._resumeToken = event.resumeToken;
        for (const packet of this._again.splice(0)) this._outbox.offer(packet);
        this._readyMs = performance.now();
        break;
      case "ready": // a new session: what is chosen before the first frame holds from the first frame
        this._again = [];
        this._conversation.tell({ type: "configure", ...this._settings });
        this._readyMs = performance.now();
        break;
      case "error":
        this._error = event;
        break;
      default:
    }
    const { resumeToken: _secret, ...shown } = event;
    postMessage(shown);
  }

  _flush() {
    if (this._socket.readyState !== WebSocket.OPEN) return;
    while (this._socket.bufferedAmount < FULL_BYTES) {
      const message = this._outbox.take();
      if (message === null) return;
      this._socket.send(message);
    }
  }

  _tick() {
    const nowMs = performance.now();
    if (this._socket.readyState === WebSocket.OPEN) {
      if (this._conversation.tick(nowMs)) this._abandon(CLOSE_SILENT);
      if (this._conversation.isReady && nowMs - this._readyMs > STEADY_MS) this._backoff.reset();
      this._flush();
    }
    this._ticks += 1;
    if (this._ticks % REPORT_EVERY_TICKS === 0) this._report();
  }

  _report() {
    const { lastPlayedFrame, underruns, bufferMs } = this._played;
    const stats = { type: "client_stats", underruns, bufferMs };
    if (lastPlayedFrame !== null) stats.lastPlayedFrame = lastPlayedFrame;
    if (this._conversation.isReady) this._tell(stats);
    postMessage({
      kind: "wire",
      roundTrip: this._roundTrips.summary(),
      unanswered: this._sentMs.size,
      outboxDepth: this._outbox.depth,
      socketBytes: this._socket.bufferedAmount,
      droppedFrames: this._droppedFrames + this._outbox.droppedFrames,
      words: {
        written: this._words.written,
        leftOut: this._words.leftOut + this._outbox.droppedPartials,
        acked: this._receipts.acked,
        unacked: this._receipts.waiting + this._again.length,
      },
      ignored: this._conversation.ignored,
    });
  }

  /** Close without waiting for a peer that may be gone; a socket's own close can take a minute. */
  _abandon(code) {
    const socket = this._socket;
    socket.close(code);
    this._closed(socket, code);
  }

  _closed(socket, code) {
    if (socket !== this._socket || socket.onclose === null) return;
    socket.onclose = null;
    socket.onmessage = null;
    this._droppedFrames += this._outbox.droppedFrames;
    this._words.leftOut += this._outbox.droppedPartials;
    this._again.push(...this._receipts.takeAll(), ...this._outbox.unwritten);
    this._playback.postMessage({ kind: "pause" });
    const next = afterClose({ code, error: this._error, parted: this._parted });
    if (!next.again) {
      this._end({ why: next.why, message: this._error?.message });
      return;
    }
    const resuming = next.resume && this._resumeToken !== null;
    if (!resuming) this._resumeToken = null;
    this._why ??= next.why; // an attempt that failed says nothing new
    const inMs = this._backoff.next(next.retryAfterMs);
    postMessage({ kind: "lost", why: this._why, message: this._error?.message, resuming, inMs });
    this._retry = setTimeout(() => this._connect(resuming), inMs);
  }

  _end(ending) {
    clearInterval(this._timer);
    clearTimeout(this._retry);
    this._socket.onclose = null;
    this._socket.close();
    postMessage({ kind: "ended", ...ending });
  }
}

/** The sound path without a server: what the microphone hears goes straight to the loudspeaker. */
class Echo {
  constructor({ capture, playback }) {
    this._frames = 0;
    capture.onmessage = ({ data: { samples, lastMs } }) => {
      playback.postMessage({ kind: "frame", samples, echoMs: lastMs, index: this._frames }, [samples.buffer]);
      this._frames += 1;
    };
  }

  close() {
    postMessage({ kind: "ended", why: "stopped" });
  }
}

let current = null;

onmessage = ({ data }) => {
  switch (data.kind) {
    case "open":
      current = data.echo ? new Echo(data) : new Wire(data);
      break;
    case "configure":
      current.configure(data.settings);
      break;
    case "vad":
      current.vad(data.speaking);
      break;
    case "words":
      current.words(data);
      break;
    case "listen":
      current.listen(data.who, data.listening);
      break;
    case "close":
      current.close();
      break;
    default:
      throw new TypeError(`the page said ${data.kind}`);
  }
};
