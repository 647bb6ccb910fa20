/** Poll the server's /health, so that the page shows whether a call can be started. */

import { refusalOf } from "./protocol/refusal.js";
import { serverUrl } from "./server-url.js";

const SOON_MS = 2000; // while no call can be started
const READY_EVERY_MS = 5000;
const TIMEOUT_MS = 8000;

/**
 * Call `onHealth(health)` regularly; null if the server does not respond, {status: "unauthorized"} or {status:
 * "refused", code, message, retryAfterMs} if it refuses, and then not before it may be asked again. Pauses while the page
 * is hidden. → `ask()`: ask again now, since it has changed.
 */
export function watchHealth(onHealth) {
  let health = null;
  let wake = null; // ends the current pause
  let isDue = false; // it has changed since it was asked for
  const pause = (ms) =>
    new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, isDue ? 0 : ms);
      isDue = false;
    });
  const watch = async () => {
    for (health = deliveredHealth() ?? (await fetchHealth()); ; health = await fetchHealth()) {
      onHealth(health);
      const canStart = health?.status === "ready" && health.lanes.room > 0;
      await pause(Math.max(canStart ? READY_EVERY_MS : SOON_MS, health?.retryAfterMs ?? 0));
      wake = null;
      if (document.hidden) await untilVisible();
    }
  };
  watch();
  return () => {
    if (health?.retryAfterMs) return;
    if (wake === null) isDue = true;
    else wake();
  };
}

/** What the server knew when it delivered this page; undefined if it did not say. It is not asked for then. */
function deliveredHealth() {
  const content = document.querySelector('meta[name="health"]')?.content;
  return content ? JSON.parse(content) : undefined;
}

async function fetchHealth() {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), TIMEOUT_MS);
  try {
    const response = await fetch(serverUrl("health"), { cache: "no-store", signal: controller.signal });
    if (response.ok) return await response.json();
    if (response.status === 401) return { status: "unauthorized" };
    return { status: "refused", ...(await refusalOf(response)) };
  } catch (error) {
    if (error instanceof ReferenceError) throw error; // a mistake of this page
    return null; // the server is not reachable, or does not answer in time
  } finally {
    clearTimeout(timer);
  }
}

const untilVisible = () =>
  new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
