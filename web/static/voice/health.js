/** Poll the server's /health, so that the page shows whether a call can be started. */

const UNREADY_EVERY_MS = 2000;
const READY_EVERY_MS = 5000;

/** Call `onHealth(health)` regularly; null if the server does not respond. Pauses while the page is hidden. */
export async function watchHealth(onHealth) {
  for (;;) {
    const health = await fetchHealth();
    onHealth(health);
    await pause(health?.status === "ready" ? READY_EVERY_MS : UNREADY_EVERY_MS);
    if (document.hidden) await untilVisible();
  }
}

async function fetchHealth() {
  try {
    const response = await fetch("health", { cache: "no-store" });
    if (response.status === 401) return { status: "unauthorized" };
    return response.ok ? await response.json() : null;
  } catch (error) {
    if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error;
    return null; // the server is not reachable
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const untilVisible = () =>
  new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
