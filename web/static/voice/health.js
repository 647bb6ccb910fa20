/** Poll the server's /health, so that the page shows whether a call can be started. */

import { refusalOf } from "./protocol/refusal.js";
import { serverUrl } from "./server-url.js";

const UNREADY_EVERY_MS = 2000;
const READY_EVERY_MS = 5000;
const TIMEOUT_MS = 8000;

/**
 * Call `onHealth(health)` regularly; null if the server does not respond, {status: "unauthorized"} or {status:
 * "refused", code, message, retryAfterMs} if it refuses, and then not before it may be asked again. Pauses while the page
 * is hidden.
 */
export async function watchHealth(onHealth) {
  for (;;) {
    const health = await fetchHealth();
    onHealth(health);
    await pause(Math.max(health?.status === "ready" ? READY_EVERY_MS : UNREADY_EVERY_MS, health?.retryAfterMs ?? 0));
    if (document.hidden) await untilVisible();
  }
}

async function fetchHealth() {
  try {
    const response = await fetch(serverUrl("health"), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (response.ok) return await response.json();
    if (response.status === 401) return { status: "unauthorized" };
    return { status: "refused", ...(await refusalOf(response)) };
  } catch (error) {
    if (error instanceof ReferenceError) throw error; // a mistake of this page
    return null; // the server is not reachable, or does not answer in time
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const untilVisible = () =>
  new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
