/**
 * The longer a server stays away, the more rarely it is asked; what it asked for itself is kept.
 *
 * Delays double from half a second to ten, each shortened by up to a quarter at random, so that pages
 * that lost the same server do not come back in step.
 */

const FIRST_MS = 500;
const LAST_MS = 10_000;
const SPREAD = 0.25;

export class Backoff {
  constructor(random = Math.random) {
    this._random = random;
    this.attempt = 0;
  }

  /** How long to wait before the next attempt; never less than `retryAfterMs`. */
  next(retryAfterMs = 0) {
    const delayMs = Math.min(LAST_MS, FIRST_MS * 2 ** this.attempt) * (1 - SPREAD * this._random());
    this.attempt += 1;
    return Math.max(delayMs, retryAfterMs);
  }

  /** A connection held: the next loss starts from the beginning. */
  reset() {
    this.attempt = 0;
  }
}
