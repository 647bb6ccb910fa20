/**
 * What matters more goes first, and what waits is bounded: a slow network costs old audio, never control.
 *
 * Packets wait here while the socket is full and are numbered as they leave, so that the numbers on the
 * wire are contiguous. Under pressure LOW packets are dropped first, then the oldest audio; HIGH ones
 * are few and never dropped.
 */

import { Priority, SEQ_MODULUS, encode } from "./packets.js";

const LOW_LIMIT = 4;
const LEVELS = 4;

export class Outbox {
  /** `audioLimit`: frames that may wait before the oldest is dropped. */
  constructor({ audioLimit }) {
    this._limits = [audioLimit, Infinity, Infinity, LOW_LIMIT];
    this._waiting = Array.from({ length: LEVELS }, () => []);
    this._seq = 0;
    this.droppedFrames = 0;
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
  }

  /** The next message to write, numbered; null when nothing waits. */
  take() {
    const level = this._waiting.find((packets) => packets.length > 0);
    if (level === undefined) return null;
    const message = encode({ ...level.shift(), seq: this._seq });
    this._seq = (this._seq + 1) % SEQ_MODULUS;
    return message;
  }
}
