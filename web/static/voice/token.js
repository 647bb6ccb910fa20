/**
 * A token in the address is shown to the server once, and then to nobody: it leaves the address at once.
 *
 * It rides in the fragment, which browsers never send; the server answers with a cookie that scripts
 * cannot read. Source: docs/how-to/operations.md.
 */

/** Exchange `#token=…`, if the page was opened with one. */
export async function exchangeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  await fetch("/api/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
}
