/**
 * Reconnect delays: exponential backoff with jitter, never less than what the server asked for.
 *
 * Delays double from 0.5 s to 10 s, each shortened by up to a quarter at random, so that pages that lost the same
 * server do not reconnect at the same time.
 */

const FIRST_MS = 500;
const MAX_MS = 10_000;
const JITTER = 0.25;

export class Backoff {
  constructor(random = Math.random) {
    this._random = random;
    this.attempt = 0;
  }

  /** How long to wait before the next attempt; never less than `retryAfterMs`. */
  next(retryAfterMs = 0) {
    const delayMs = Math.min(MAX_MS, FIRST_MS * 2 ** this.attempt) * (1 - JITTER * this._random());
    this.attempt += 1;
    return Math.max(delayMs, retryAfterMs);
  }

  /** Start over after a stable connection. */
  reset() {
    this.attempt = 0;
  }
}
