/**
 * Packets waiting to be sent, by priority, with bounded length.
 *
 * Packets wait here while the socket is full and are numbered as they leave, so that sequence numbers on the wire
 * are contiguous. LOW packets are dropped first; of the partial captions only the newest is kept; audio is dropped
 * oldest first. HIGH packets are few and never dropped.
 */

import { Priority, SEQ_MODULUS, encode } from "./packets.js";

const MAX_LOW = 4;
const MAX_PARTIALS = 1; // each one contains the whole utterance so far
const LEVELS = 4;

export class SendQueue {
  /** `maxAudioFrames`: beyond it the oldest frame is dropped. `unackedPackets` keeps packets that request an ACK. */
  constructor({ maxAudioFrames, unackedPackets }) {
    this._limits = [maxAudioFrames, Infinity, MAX_PARTIALS, MAX_LOW];
    this._levels = Array.from({ length: LEVELS }, () => []);
    this._unackedPackets = unackedPackets;
    this._seq = 0;
    this.droppedFrames = 0;
    this.droppedPartials = 0;
  }

  get depth() {
    return this._levels.reduce((sum, level) => sum + level.length, 0);
  }

  /** Queue `packet`; if its level is full, the oldest packet of that level is dropped. */
  push(packet) {
    const level = this._levels[packet.priority];
    level.push(packet);
    if (level.length <= this._limits[packet.priority]) return;
    level.shift();
    if (packet.priority === Priority.CRITICAL) this.droppedFrames += 1;
    if (packet.priority === Priority.NORMAL) this.droppedPartials += 1;
  }

  /** Drop the waiting partial captions, which the final one replaces. */
  dropPartials() {
    const level = this._levels[Priority.NORMAL];
    this.droppedPartials += level.length;
    level.length = 0;
  }

  /** The next message to send, numbered; null if the queue is empty. */
  shift() {
    const level = this._levels.find((packets) => packets.length > 0);
    if (level === undefined) return null;
    const packet = level.shift();
    const message = encode({ ...packet, seq: this._seq });
    if (packet.wantsAck) this._unackedPackets.add(this._seq, packet);
    this._seq = (this._seq + 1) % SEQ_MODULUS;
    return message;
  }

  /** The packets that request an ACK and were not sent yet. */
  get unsentWantingAck() {
    return this._levels.flat().filter((packet) => packet.wantsAck);
  }
}
