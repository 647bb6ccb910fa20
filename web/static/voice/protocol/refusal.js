/**
 * Why a WebSocket was refused. A browser hides the response to a refused upgrade, so the same address is asked by a
 * plain request, which carries the same Origin and cookies and passes the same checks.
 */

const TIMEOUT_MS = 4000;
const METHOD_NOT_ALLOWED = 405; // all checks passed: only the method is wrong
// Trying again changes nothing.
const PERMANENT = new Set(["unauthorized", "origin_refused", "cross_site_refused", "host_refused"]);

/** {why, message?, retryAfterMs?, isPermanent}; `socketUrl`: of the WebSocket. */
export async function findRefusal(socketUrl, ask = (url, options) => fetch(url, options)) {
  const url = new URL(socketUrl.replace(/^ws/, "http"));
  url.search = "";
  let response;
  try {
    response = await ask(url.href, { method: "POST", cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    return { why: "unreachable", isPermanent: false };
  }
  if (response.status === METHOD_NOT_ALLOWED) return { why: "no_websocket", isPermanent: false };
  const { code, message, retryAfterMs } = await response
    .json()
    .then(({ error }) => error ?? {})
    .catch(() => ({}));
  if (code !== undefined) return { why: code, message, retryAfterMs, isPermanent: PERMANENT.has(code) };
  return { why: response.status >= 500 ? "bad_gateway" : "refused", isPermanent: false };
}
