/**
 * Packets that request an ACK, kept until it arrives, across reconnects.
 *
 * They are keyed by sequence number; after a resume they are sent again under new ones. At most MAX_PACKETS are
 * kept, the newest, so that a server that never acknowledges does not use up memory.
 */

const MAX_PACKETS = 256;

export class UnackedPackets {
  constructor() {
    this._packets = new Map(); // by seq
    this.acked = 0;
  }

  get count() {
    return this._packets.size;
  }

  add(seq, packet) {
    this._packets.set(seq, packet);
    if (this._packets.size > MAX_PACKETS) this._packets.delete(this._packets.keys().next().value);
  }

  /** An ACK was received: whether it is for one of these packets. */
  acknowledge(seq) {
    if (!this._packets.delete(seq)) return false;
    this.acked += 1;
    return true;
  }

  /** Remove and return all packets, oldest first, when the connection is lost. */
  takeAll() {
    const packets = [...this._packets.values()];
    this._packets.clear();
    return packets;
  }
}
