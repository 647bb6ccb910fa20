/**
 * Sign in with a token from the page's URL.
 *
 * The token is in the fragment, which browsers never send; the server exchanges it for a cookie that scripts cannot
 * read, and it is removed from the address bar at once. Source: docs/how-to/operations.md.
 */

/** Exchange `#token=…`, if the page was opened with one. */
export async function exchangeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  await fetch("api/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
}
