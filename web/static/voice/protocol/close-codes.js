/**
 * What to do after a close: stop, or reconnect, with or without resuming the session.
 *
 * Source: docs/reference/protocol.md, "Close codes". Pure function of the close code and the last error.
 */

export const CLOSE_PROTOCOL_ERROR = 4002; // our own: a page may not close with 1002
const ABNORMAL_CLOSURE = 1006; // reported by the browser if there was no close frame (RFC 6455 §7.4.1)

/**
 * `code`: the close code; `error`: the last `error` message of this connection, or null; `closing`: whether the
 * user ended the call. → {reconnect, resume?, why, retryAfterMs?}; `resume`: with the session's token, if any.
 */
export function afterClose({ code, error, closing }) {
  if (closing) return { reconnect: false, why: "stopped" };
  switch (code) {
    case 1000:
      return { reconnect: false, why: error?.code ?? "ended" };
    case 1001:
      return { reconnect: true, resume: false, why: "going_away" };
    case 1002:
    case 1003:
    case 1007:
    case 1008:
    case 1009:
    case CLOSE_PROTOCOL_ERROR:
      return { reconnect: false, why: error?.code ?? "protocol" };
    case 1011:
      return { reconnect: true, resume: false, why: "internal" };
    case 1013:
      return { reconnect: true, resume: true, why: error?.code ?? "busy", retryAfterMs: error?.retryAfterMs };
    case 4001:
      return { reconnect: false, why: "replaced" };
    case ABNORMAL_CLOSURE:
    default:
      return { reconnect: true, resume: true, why: "lost" };
  }
}
