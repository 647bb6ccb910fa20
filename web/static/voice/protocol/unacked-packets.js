/**
 * What must arrive is known until it has: packets that want an ACK are kept over the whole session.
 *
 * By the number they were written under; after a resume they are written again, under new ones. At most
 * LIMIT are kept, the newest: a server that never acknowledges costs no memory.
 */

const LIMIT = 256;

export class Receipts {
  constructor() {
    this._packets = new Map(); // by seq
    this.acked = 0;
  }

  get waiting() {
    return this._packets.size;
  }

  enter(seq, packet) {
    this._packets.set(seq, packet);
    if (this._packets.size > LIMIT) this._packets.delete(this._packets.keys().next().value);
  }

  /** An ACK came: whether it is for one of these. */
  release(seq) {
    if (!this._packets.delete(seq)) return false;
    this.acked += 1;
    return true;
  }

  /** The connection is gone: give up what waits, oldest first, to be offered again or forgotten. */
  takeAll() {
    const packets = [...this._packets.values()];
    this._packets.clear();
    return packets;
  }
}
