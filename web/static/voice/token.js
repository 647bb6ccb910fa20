/**
 * Sign in with a token from the page's URL.
 *
 * The token is in the fragment, which browsers never send; the server exchanges it for a cookie that scripts cannot
 * read, and it is removed from the address bar at once. Source: docs/how-to/operations.md.
 */

import { refusalOf } from "./protocol/refusal.js";
import { serverUrl } from "./server-url.js";

/** Exchange `#token=…`, if the page was opened with one. → null, or {why, message?, retryAfterMs?}. */
export async function exchangeToken() {
  if (!location.hash.includes("token=")) return null;
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  try {
    const response = await fetch(serverUrl("api/session"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token }),
    });
    if (response.ok) return null;
    if (response.status === 401) return { why: "token_wrong" };
    const { code, ...details } = await refusalOf(response);
    return { why: code, ...details };
  } catch {
    return null; // the server is not reachable, which /health shows
  }
}
