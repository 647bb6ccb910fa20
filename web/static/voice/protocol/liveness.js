/**
 * Heartbeats never echo for ever, and a server that says nothing is noticed.
 *
 * A heartbeat does not say whether it asks or answers, so each end counts the questions it has open:
 * one that arrives while any is open answers it; any other is a question, and is answered, unless the
 * last answer was given less than a second before. Time is handed in, in ms, and never goes back.
 */

const ANSWER_SPACING_MS = 1000;

export class Liveness {
  constructor({ everyMs, timeoutMs, nowMs }) {
    this._everyMs = everyMs;
    this._timeoutMs = timeoutMs;
    this._heardMs = nowMs;
    this._askedMs = nowMs;
    this._answeredMs = nowMs - ANSWER_SPACING_MS;
    this._open = 0;
  }

  /** The server names its own intervals once it is there. */
  adopt({ everyMs, timeoutMs }) {
    this._everyMs = everyMs;
    this._timeoutMs = timeoutMs;
  }

  /** Any packet is a sign of life. */
  hear(nowMs) {
    this._heardMs = nowMs;
  }

  /** A heartbeat of our own goes out. */
  ask(nowMs) {
    this._askedMs = nowMs;
    this._open += 1;
  }

  /** A heartbeat came: whether it is to be answered. */
  answers(nowMs) {
    if (this._open > 0) {
      this._open -= 1;
      return false;
    }
    if (nowMs - this._answeredMs < ANSWER_SPACING_MS) return false;
    this._answeredMs = nowMs;
    return true;
  }

  isDue(nowMs) {
    return nowMs >= this._askedMs + this._everyMs;
  }

  isOver(nowMs) {
    return nowMs >= this._heardMs + this._timeoutMs;
  }
}
