/**
 * Heartbeats: when to send one, when to answer one, and when the server counts as dead.
 *
 * A heartbeat packet does not say whether it is a request or an answer, so each end counts its unanswered ones:
 * a heartbeat that arrives while any is unanswered is an answer; any other is a request, and is answered unless
 * the last answer was sent less than a second ago. So two ends never echo heartbeats forever. Times are in ms and
 * passed in; they never decrease.
 */

const MIN_ANSWER_INTERVAL_MS = 1000;

export class Liveness {
  constructor({ everyMs, timeoutMs, nowMs }) {
    this._everyMs = everyMs;
    this._timeoutMs = timeoutMs;
    this._receivedMs = nowMs;
    this._sentMs = nowMs;
    this._answeredMs = nowMs - MIN_ANSWER_INTERVAL_MS;
    this._unanswered = 0;
  }

  /** Use the intervals that the server sent. */
  setIntervals({ everyMs, timeoutMs }) {
    this._everyMs = everyMs;
    this._timeoutMs = timeoutMs;
  }

  /** Any packet shows that the server is alive. */
  packetReceived(nowMs) {
    this._receivedMs = nowMs;
  }

  /** A heartbeat of our own was sent. */
  heartbeatSent(nowMs) {
    this._sentMs = nowMs;
    this._unanswered += 1;
  }

  /** A heartbeat was received: whether to answer it. */
  shouldAnswer(nowMs) {
    if (this._unanswered > 0) {
      this._unanswered -= 1;
      return false;
    }
    if (nowMs - this._answeredMs < MIN_ANSWER_INTERVAL_MS) return false;
    this._answeredMs = nowMs;
    return true;
  }

  isDue(nowMs) {
    return nowMs >= this._sentMs + this._everyMs;
  }

  hasTimedOut(nowMs) {
    return nowMs >= this._receivedMs + this._timeoutMs;
  }
}
