/**
 * The client side of the protocol: packets in, events out.
 *
 * No socket and no clock: bytes and times are passed in, packets to send go to a send queue.
 * Source: docs/reference/protocol.md. Neighbours: packets.js is the codec, connection-worker.js owns the socket.
 */

import { Liveness } from "./liveness.js";
import { Priority, Type, copySamples, decode, payloadOf } from "./packets.js";
import { FRAME_MS, FRAME_SAMPLES } from "../units.js";

const EMPTY = new Uint8Array(0);
const FRAME_BYTES = FRAME_SAMPLES * Float32Array.BYTES_PER_ELEMENT;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const DEFAULT_INTERVALS = Object.freeze({ everyMs: 5000, timeoutMs: 15_000 }); // until the server sends its own

/** The server violated the protocol; the connection must be closed. */
export class ServerProtocolError extends Error {
  constructor(message) {
    super(message);
    this.name = "ServerProtocolError";
  }
}

export class Conversation {
  /** `receivedIds` and `unackedPackets` belong to the session and outlive a connection; `framePool` is for audio. */
  constructor({ sendQueue, receivedIds, unackedPackets, framePool, nowMs, epochMs }) {
    this._sendQueue = sendQueue;
    this._framePool = framePool;
    this._receivedIds = receivedIds;
    this._unackedPackets = unackedPackets;
    this._epochMs = epochMs;
    this._liveness = new Liveness({ ...DEFAULT_INTERVALS, nowMs });
    this._isClosing = false;
    this._hasSession = false;
    this.isReady = false; // audio is accepted
    this.isPaused = false; // the session was put back into the queue
    this.framesReceived = 0;
    this.ignored = 0;
  }

  /** Process one message. → its events, in order; ACKs and heartbeat answers are queued. */
  receive(message, nowMs) {
    const packet = decodeMessage(message);
    this._liveness.packetReceived(nowMs);
    if (packet.wantsAck && packet.type !== Type.ACK) {
      this._acknowledge(packet.seq);
      if (!this._receivedIds.isNew()) return []; // a duplicate, sent again after a reconnect
    }
    switch (packet.type) {
      case Type.HEARTBEAT:
        if (this._liveness.shouldAnswer(nowMs)) this._sendHeartbeat();
        return [];
      case Type.ACK:
        this._onAck(packet);
        return [];
      case Type.AUDIO_CHUNK:
        return this._onAudio(packet);
      case Type.TEXT_PARTIAL:
        return [{ kind: "text", final: false, text: textOf(packet) }];
      case Type.TEXT_FINAL:
        return [{ kind: "text", final: true, text: textOf(packet) }];
      case Type.METADATA:
        return this._onMetadata(packet);
      default:
        this.ignored += 1;
        return [];
    }
  }

  /** Send no audio until the next `ready`. */
  hold() {
    this.isReady = false;
  }

  /** Queue a heartbeat if one is due. → whether the server has timed out. */
  tick(nowMs) {
    if (this._liveness.isDue(nowMs)) {
      this._liveness.heartbeatSent(nowMs);
      this._sendHeartbeat();
    }
    return this._liveness.hasTimedOut(nowMs);
  }

  /** Send one frame of the user's audio; `lastMs`: the capture time of its last sample. */
  sendAudio(samples, lastMs) {
    if (!this.isReady || this._isClosing) return;
    this._enqueue(Type.AUDIO_CHUNK, Priority.CRITICAL, payloadOf(samples), { timestampMs: lastMs });
  }

  /** Send the user's caption: the utterance so far, or its final text. */
  sendText({ text, final }) {
    if (!this.isReady || this._isClosing) return;
    const payload = new TextEncoder().encode(text);
    if (!final) {
      this._enqueue(Type.TEXT_PARTIAL, Priority.NORMAL, payload);
      return;
    }
    this._sendQueue.dropPartials();
    this._enqueue(Type.TEXT_FINAL, Priority.HIGH, payload, { wantsAck: true });
  }

  /** Send client metadata: `configure`, `vad`, `client_stats` or `bye`. */
  sendMetadata(metadata) {
    if (this._isClosing) return;
    const priority = metadata.type === "client_stats" ? Priority.LOW : Priority.HIGH;
    this._enqueue(Type.METADATA, priority, new TextEncoder().encode(JSON.stringify(metadata)));
    if (metadata.type === "bye") this._isClosing = true;
  }

  _onAck({ payload }) {
    const known =
      payload.length === 4 &&
      this._unackedPackets.acknowledge(new DataView(payload.buffer, payload.byteOffset).getUint32(0, true));
    if (!known) this.ignored += 1;
  }

  _onAudio({ payload, timestampMs }) {
    const count = payload.length / FRAME_BYTES;
    if (!Number.isInteger(count) || count === 0) {
      throw new ServerProtocolError(`${payload.length} bytes of audio are not a whole number of frames`);
    }
    return Array.from({ length: count }, (_, i) => {
      const index = this.framesReceived;
      this.framesReceived += 1;
      const samples = copySamples(payload.subarray(i * FRAME_BYTES, (i + 1) * FRAME_BYTES), this._framePool.take());
      return { kind: "audio", samples, echoMs: timestampMs - FRAME_MS * (count - 1 - i), index };
    });
  }

  _onMetadata(packet) {
    const metadata = parseMetadata(textOf(packet));
    switch (metadata.type) {
      case "connection_established":
        this._liveness.setIntervals({
          everyMs: metadata.limits.heartbeatEveryMs,
          timeoutMs: metadata.limits.heartbeatTimeoutMs,
        });
        break;
      case "ready":
        this.isReady = true;
        if (this.isPaused) {
          this.isPaused = false;
          return [{ kind: "continued" }];
        }
        if (!this._hasSession) this._receivedIds.reset(); // `ready` may come again in the same session
        this._hasSession = true;
        break;
      case "resumed":
        this._receivedIds.resume(metadata);
        this._hasSession = true;
        this.isReady = true;
        break;
      case "queued":
        if (!this.isReady && !this.isPaused) break;
        this.isReady = false;
        this.isPaused = true;
        return [{ kind: "paused", position: metadata.position }];
      case "recording":
      case "stats":
      case "error":
      case "draining":
      case "dropped":
        break;
      default:
        this.ignored += 1;
        return [];
    }
    return [{ kind: metadata.type, ...metadata }];
  }

  _acknowledge(seq) {
    const payload = new Uint8Array(4);
    new DataView(payload.buffer).setUint32(0, seq, true);
    this._enqueue(Type.ACK, Priority.HIGH, payload);
  }

  _sendHeartbeat() {
    this._enqueue(Type.HEARTBEAT, Priority.LOW, EMPTY);
  }

  _enqueue(type, priority, payload, { timestampMs = this._epochMs(), wantsAck = false } = {}) {
    this._sendQueue.push({ type, priority, timestampMs, payload, wantsAck });
  }
}

function decodeMessage(message) {
  if (typeof message === "string") throw new ServerProtocolError("unexpected text frame");
  try {
    return decode(new Uint8Array(message));
  } catch (error) {
    throw new ServerProtocolError(error.message);
  }
}

function textOf({ payload }) {
  try {
    return UTF8.decode(payload);
  } catch {
    throw new ServerProtocolError("text is not valid UTF-8");
  }
}

function parseMetadata(text) {
  let metadata;
  try {
    metadata = JSON.parse(text);
  } catch {
    throw new ServerProtocolError("metadata is not valid JSON");
  }
  if (metadata === null || typeof metadata !== "object" || typeof metadata.type !== "string") {
    throw new ServerProtocolError("metadata is not an object with a type");
  }
  return metadata;
}
