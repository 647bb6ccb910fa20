/**
 * How a connection ended decides what happens next: stop, or come back, and with or without the session.
 *
 * Source: docs/reference/protocol.md, "Close codes". Pure: an ending in, a decision out.
 */

export const CLOSE_PROTOCOL_ERROR = 4002; // our own: a page may not close with 1002
const LOST = 1006; // what a browser reports where no close frame came (RFC 6455 §7.4.1)

/**
 * What to do after a close. `code` is the close code, `error` the last `error` of this connection or null,
 * `parted` whether the user stopped. `again`: reconnect; `resume`: with the session's token, if there is one.
 */
export function afterClose({ code, error, parted }) {
  if (parted) return { again: false, why: "stopped" };
  switch (code) {
    case 1000:
      return { again: false, why: error?.code ?? "ended" };
    case 1001:
      return { again: true, resume: false, why: "going_away" };
    case 1002:
    case 1003:
    case 1007:
    case 1009:
    case CLOSE_PROTOCOL_ERROR:
      return { again: false, why: error?.code ?? "protocol" };
    case 1011:
      return { again: true, resume: false, why: "internal" };
    case 1013:
      return { again: true, resume: true, why: error?.code ?? "busy", retryAfterMs: error?.retryAfterMs };
    case 4001:
      return { again: false, why: "replaced" };
    case LOST:
    default:
      return { again: true, resume: true, why: "lost" };
  }
}
