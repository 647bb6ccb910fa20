/**
 * What matters more goes first, and what waits is bounded: a slow network costs words, then old audio, never control.
 *
 * Packets wait here while the socket is full and are numbered as they leave, so that the numbers on the
 * wire are contiguous. Under pressure LOW packets are dropped first; of the user's words so far only the
 * newest waits, behind everything else; then the oldest audio goes. HIGH ones are few and never dropped.
 */

import { Priority, SEQ_MODULUS, encode } from "./packets.js";

const LOW_LIMIT = 4;
const PARTIAL_LIMIT = 1; // each is the whole utterance so far
const LEVELS = 4;

export class Outbox {
  /** `audioLimit`: frames that may wait before the oldest is dropped. `receipts` keep what wants an ACK. */
  constructor({ audioLimit, receipts }) {
    this._limits = [audioLimit, Infinity, PARTIAL_LIMIT, LOW_LIMIT];
    this._waiting = Array.from({ length: LEVELS }, () => []);
    this._receipts = receipts;
    this._seq = 0;
    this.droppedFrames = 0;
    this.droppedPartials = 0;
  }

  get depth() {
    return this._waiting.reduce((sum, level) => sum + level.length, 0);
  }

  /** Let `packet` wait its turn; of what is too much, the oldest goes. */
  offer(packet) {
    const level = this._waiting[packet.priority];
    level.push(packet);
    if (level.length <= this._limits[packet.priority]) return;
    level.shift();
    if (packet.priority === Priority.CRITICAL) this.droppedFrames += 1;
    if (packet.priority === Priority.NORMAL) this.droppedPartials += 1;
  }

  /** The utterance is closed: what is left of it so far says nothing new. */
  forgetPartials() {
    const level = this._waiting[Priority.NORMAL];
    this.droppedPartials += level.length;
    level.length = 0;
  }

  /** The next message to write, numbered; null when nothing waits. */
  take() {
    const level = this._waiting.find((packets) => packets.length > 0);
    if (level === undefined) return null;
    const packet = level.shift();
    const message = encode({ ...packet, seq: this._seq });
    if (packet.wantsAck) this._receipts.enter(this._seq, packet);
    this._seq = (this._seq + 1) % SEQ_MODULUS;
    return message;
  }

  /** What wants an ACK and is not written yet. */
  get unwritten() {
    return this._waiting.flat().filter((packet) => packet.wantsAck);
  }
}
