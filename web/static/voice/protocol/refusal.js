/**
 * Why a WebSocket was refused. A browser hides the response to a refused upgrade, so the same address is asked by a
 * plain request, which carries the same Origin and cookies and passes the same checks.
 */

const TIMEOUT_MS = 4000;
const METHOD_NOT_ALLOWED = 405; // all checks passed: only the method is wrong
const TOO_MANY_REQUESTS = 429;
// Trying again changes nothing.
const PERMANENT = new Set([
  "unauthorized",
  "origin_refused",
  "cross_site_refused",
  "host_refused",
  "client_address_unreadable",
]);

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
  const { code, ...details } = await refusalOf(response);
  return { why: code, ...details, isPermanent: PERMANENT.has(code) };
}

/** {code, message?, retryAfterMs?} of a response that is an error: the server's own words, or what its status means. */
export async function refusalOf(response) {
  const { code, message, retryAfterMs } = await response
    .json()
    .then(({ error }) => error ?? {})
    .catch(() => ({})); // not from this server: a proxy's own page
  if (typeof code === "string") return { code, message, retryAfterMs };
  if (response.status === TOO_MANY_REQUESTS) return { code: "too_many_requests" };
  return { code: response.status >= 500 ? "bad_gateway" : "refused_elsewhere" };
}
