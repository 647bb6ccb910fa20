/**
 * Duplicate detection for packets that the server sends again after a reconnect.
 *
 * Packets that request an ACK are numbered over the whole session, from 0. The number is not in the packet: both
 * ends count, and `resumed` lists the numbers of the packets that follow. Within one connection numbers only
 * increase, so the last one is enough to detect duplicates.
 */

export class ReceivedIds {
  constructor() {
    this.reset();
  }

  /** A new session starts at 0. */
  reset() {
    this._resentIds = [];
    this._nextId = 0;
    this._last = -1;
  }

  /** The next packets have the ids in `unacked`; after those, counting continues at `nextId`. */
  resume({ unacked, nextId }) {
    this._resentIds = [...unacked];
    this._nextId = nextId;
  }

  /** A packet that requests an ACK was received: whether it is new. */
  isNew() {
    let id = this._resentIds.shift();
    if (id === undefined) {
      id = this._nextId;
      this._nextId += 1;
    }
    const isNewId = id > this._last;
    this._last = Math.max(this._last, id);
    return isNewId;
  }
}
