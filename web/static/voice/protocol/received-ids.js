/**
 * Nothing is shown twice: what is sent again after a cut is known by its number in the session.
 *
 * Packets that want an ACK are counted over the whole session, from 0, and the number is nowhere in the
 * packet: both ends count, and `resumed` names the numbers of what follows. On one connection they only
 * grow, so the last one says it all.
 */

export class Heard {
  constructor() {
    this.restart();
  }

  /** A new session counts from 0. */
  restart() {
    this._again = [];
    this._nextId = 0;
    this._last = -1;
  }

  /** What comes next has the ids of `unacked`; what comes after counts on from `nextId`. */
  resume({ unacked, nextId }) {
    this._again = [...unacked];
    this._nextId = nextId;
  }

  /** A packet that wants an ACK came: whether it is new. */
  isNew() {
    let id = this._again.shift();
    if (id === undefined) {
      id = this._nextId;
      this._nextId += 1;
    }
    const fresh = id > this._last;
    this._last = Math.max(this._last, id);
    return fresh;
  }
}
