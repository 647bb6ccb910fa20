/**
 * Packets in, events out: what a client must do by the protocol happens here, and nothing else does.
 *
 * No socket, no clock, no screen: bytes and times are handed in, packets to send are offered to an outbox.
 * Source: docs/reference/protocol.md. Neighbours: packets.js spells, wire.js owns the socket.
 */

import { Liveness } from "./liveness.js";
import { Priority, Type, decode, payloadOf, samplesOf } from "./packets.js";
import { FRAME_MS, FRAME_SAMPLES } from "../units.js";

const EMPTY = new Uint8Array(0);
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const ASSUMED = Object.freeze({ everyMs: 5000, timeoutMs: 15_000 }); // until the server names its own

/** The server broke the protocol; the connection is of no more use. */
export class ServerProtocolError extends Error {
  constructor(message) {
    super(message);
    this.name = "ServerProtocolError";
  }
}

export class Conversation {
  /** `heard` and `receipts` are the session's: they are handed on from one connection to the next. */
  constructor({ outbox, heard, receipts, nowMs, epochMs }) {
    this._outbox = outbox;
    this._heard = heard;
    this._receipts = receipts;
    this._epochMs = epochMs;
    this._liveness = new Liveness({ ...ASSUMED, nowMs });
    this._parted = false;
    this.isReady = false;
    this.framesReceived = 0;
    this.ignored = 0;
  }

  /** The events that one message brings, in order; acks and answers are offered on the way. */
  receive(message, nowMs) {
    const packet = read(message);
    this._liveness.hear(nowMs);
    if (packet.wantsAck && packet.type !== Type.ACK) {
      this._acknowledge(packet.seq);
      if (!this._heard.isNew()) return []; // sent again, though it had arrived
    }
    switch (packet.type) {
      case Type.HEARTBEAT:
        if (this._liveness.answers(nowMs)) this._beat();
        return [];
      case Type.ACK:
        this._acked(packet);
        return [];
      case Type.AUDIO_CHUNK:
        return this._audio(packet);
      case Type.TEXT_PARTIAL:
        return [{ kind: "text", final: false, text: textOf(packet) }];
      case Type.TEXT_FINAL:
        return [{ kind: "text", final: true, text: textOf(packet) }];
      case Type.METADATA:
        return this._metadata(packet);
      default:
        this.ignored += 1;
        return [];
    }
  }

  /** What time asks for: a heartbeat; true where the server has been silent for too long. */
  tick(nowMs) {
    if (this._liveness.isDue(nowMs)) {
      this._liveness.ask(nowMs);
      this._beat();
    }
    return this._liveness.isOver(nowMs);
  }

  /** One frame of the user's voice; `lastMs` is the capture time of its last sample. */
  speak(samples, lastMs) {
    if (!this.isReady || this._parted) return;
    this._offer(Type.AUDIO_CHUNK, Priority.CRITICAL, payloadOf(samples), { timestampMs: lastMs });
  }

  /** What the user says, as it was written down here: the utterance so far, or closed. */
  write({ text, final }) {
    if (!this.isReady || this._parted) return;
    const payload = new TextEncoder().encode(text);
    if (!final) {
      this._offer(Type.TEXT_PARTIAL, Priority.NORMAL, payload);
      return;
    }
    this._outbox.forgetPartials();
    this._offer(Type.TEXT_FINAL, Priority.HIGH, payload, { wantsAck: true });
  }

  /** Client metadata: `configure`, `vad`, `client_stats` or `bye`. */
  tell(metadata) {
    if (this._parted) return;
    const priority = metadata.type === "client_stats" ? Priority.LOW : Priority.HIGH;
    this._offer(Type.METADATA, priority, new TextEncoder().encode(JSON.stringify(metadata)));
    if (metadata.type === "bye") this._parted = true;
  }

  _acked({ payload }) {
    const known =
      payload.length === 4 &&
      this._receipts.release(new DataView(payload.buffer, payload.byteOffset).getUint32(0, true));
    if (!known) this.ignored += 1;
  }

  _audio({ payload, timestampMs }) {
    const samples = samplesOf(payload);
    const count = samples.length / FRAME_SAMPLES;
    if (!Number.isInteger(count) || count === 0) {
      throw new ServerProtocolError(`${samples.length} samples are no whole frames`);
    }
    return Array.from({ length: count }, (_, i) => {
      const index = this.framesReceived;
      this.framesReceived += 1;
      const frame = samples.slice(i * FRAME_SAMPLES, (i + 1) * FRAME_SAMPLES);
      return { kind: "audio", samples: frame, echoMs: timestampMs - FRAME_MS * (count - 1 - i), index };
    });
  }

  _metadata(packet) {
    const metadata = parse(textOf(packet));
    switch (metadata.type) {
      case "connection_established":
        this._liveness.adopt({
          everyMs: metadata.limits.heartbeatEveryMs,
          timeoutMs: metadata.limits.heartbeatTimeoutMs,
        });
        break;
      case "ready":
        this._heard.restart();
        this.isReady = true;
        break;
      case "resumed":
        this._heard.resume(metadata);
        this.isReady = true;
        break;
      case "recording":
      case "queued":
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
    this._offer(Type.ACK, Priority.HIGH, payload);
  }

  _beat() {
    this._offer(Type.HEARTBEAT, Priority.LOW, EMPTY);
  }

  _offer(type, priority, payload, { timestampMs = this._epochMs(), wantsAck = false } = {}) {
    this._outbox.offer({ type, priority, timestampMs, payload, wantsAck });
  }
}

function read(message) {
  if (typeof message === "string") throw new ServerProtocolError("text frames are not spoken here");
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
    throw new ServerProtocolError("text came that is not UTF-8");
  }
}

function parse(text) {
  let metadata;
  try {
    metadata = JSON.parse(text);
  } catch {
    throw new ServerProtocolError("metadata came that is not JSON");
  }
  if (metadata === null || typeof metadata !== "object" || typeof metadata.type !== "string") {
    throw new ServerProtocolError("metadata came that is no object with a type");
  }
  return metadata;
}
