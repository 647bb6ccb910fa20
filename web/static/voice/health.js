/** Whether a conversation could start is known before the button is pressed, and kept known. */

const UNREADY_EVERY_MS = 2000;
const READY_EVERY_MS = 5000;

/** Ask /health again and again; `tell(null)` where the server does not answer. Rests while nobody looks. */
export async function watchHealth(tell) {
  for (;;) {
    const health = await ask();
    tell(health);
    await pause(health?.status === "ready" ? READY_EVERY_MS : UNREADY_EVERY_MS);
    if (document.hidden) await visible();
  }
}

async function ask() {
  try {
    const answer = await fetch("/health", { cache: "no-store" });
    if (answer.status === 401) return { status: "unauthorized" };
    return answer.ok ? await answer.json() : null;
  } catch (error) {
    if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error;
    return null; // nobody listens, or not yet
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const visible = () =>
  new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
