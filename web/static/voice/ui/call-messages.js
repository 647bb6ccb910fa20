/**
 * What the call status says: the place in the queue, and why a connection ended.
 *
 * Keyed by an error code of docs/reference/protocol.md. Neighbour: messages.js says what to do about it.
 */

/** Why a connection ended or could not be made. */
const CLOSE_MESSAGES = Object.freeze({
  full: "All sessions are in use and the queue is full.",
  not_ready: "The server is still loading its models.",
  draining: "The server is shutting down.",
  going_away: "The server shut down.",
  lost: "Connection lost.",
  unreachable: "Cannot reach the server.",
  busy: "The server is overloaded.",
  slow: "Disconnected: network too slow for live audio.",
  silent: "Disconnected: the server received nothing from this page for too long.",
  internal: "The session failed on the server; see the server log.",
  idle: "Session ended: no audio for too long.",
  unauthorized: "Token required.",
  origin_refused: "The server refuses this address.",
  cross_site_refused: "The server refuses this page.",
  host_refused: "The server does not accept this host name.",
  too_many_attempts: "Too many wrong tokens from this address.",
  too_many_requests: "Too many requests from this address.",
  client_address_unreadable: "The reverse proxy is not set up.",
  no_websocket: "The server answers, but the WebSocket connection fails.",
  bad_gateway: "A proxy answers, but the server behind it does not.",
  refused_elsewhere: "The connection was refused on its way to the server.",
  replaced: "This conversation continues in another window.",
  out_of_turn: "Unexpected response from the server. Reload the page.",
  too_many_frames: "Disconnected: this page sent more than the server accepts. Reload the page.",
  too_big: "Disconnected: this page sent more at once than the server accepts. Reload the page.",
  protocol: "The server could not process data from this page. Reload the page.",
  worker_failed: "The connection could not be started. Reload the page.",
  ended: "The server ended the conversation.",
});

// Codes for data that the server could not read: mistakes of this page, or of something in between.
const MALFORMED = new Set([
  "bad_frame",
  "text_frame",
  "empty_message",
  "short_header",
  "length_mismatch",
  "invalid_utf8",
  "invalid_json",
  "invalid_metadata",
]);

export function closeMessage(why, message) {
  if (MALFORMED.has(why)) return CLOSE_MESSAGES.protocol;
  return CLOSE_MESSAGES[why] ?? (message ? `Disconnected: ${message}.` : "Disconnected.");
}

/** "in 5 s" or "in 3 min", rounded up. */
export function formatDelay(ms) {
  const seconds = Math.max(1, Math.ceil(ms / 1000));
  return seconds < 100 ? `in ${seconds} s` : `in ${Math.ceil(seconds / 60)} min`;
}

export function queuePosition(position) {
  return position === 1 ? "You are next in the queue." : `You are number ${position} in the queue.`;
}

export function pausedPosition(position) {
  return `The server is busy. Your conversation is paused; position ${position}. What you say now is not heard.`;
}
