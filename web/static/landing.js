/**
 * Keeps the start page's state and figures up to date without a reload, and copies the commands.
 *
 * The words are those of web/routes/landing.py, which the page shows before this script runs.
 */

import { serverState } from "./voice/state.js";
import { adviceHere, inviteCommand, refusalMessage } from "./voice/ui/messages.js";
import { watchHealth } from "./voice/health.js";

const STATES = Object.freeze({
  ready: ["Ready", "The models are loaded."],
  full: ["Full", "All sessions are in use; a new conversation waits in the queue."],
  not_ready: ["Loading", "The models are still loading; sessions cannot start yet."],
  draining: ["Shutting down", "Running sessions are finishing; no new ones can start."],
  unreachable: ["Offline", "The server does not answer. Is it still running?"],
  unauthorized: [
    "Token required",
    `Open the link that the server showed in its terminal; it ends in #token=… On its computer “${inviteCommand()}” shows it again.`,
  ],
});

const state = document.getElementById("state");
const facts = document.getElementById("facts");

function show(health) {
  const now = serverState(health);
  const [headline, sentence] = now === "refused" ? refusalWords(health) : STATES[now];
  const [strong, span] = [state.querySelector("strong"), state.querySelector("span")];
  if (span.textContent !== sentence) {
    state.className = `state ${now === "ready" ? "ready" : "waiting"}`;
    strong.textContent = `${headline}.`;
    span.textContent = sentence;
  }
  if (health?.lanes) showFacts(health);
  else facts.replaceChildren(); // what was true of a server that answered
}

function refusalWords({ code, message, retryAfterMs }) {
  const { title, text } = refusalMessage({ why: code, message, retryAfterMs }, location);
  return [title, text];
}

function showFacts({ lanes, uptimeS, model, capacity }) {
  const rows = [
    ...(model ? [["Model", model.name]] : []),
    ...(model?.trained === false ? [["Untrained", "The weights are random, so the output is noise."]] : []),
    ...(capacity?.advice ? [["Too slow", adviceHere(capacity.advice, location)]] : []),
    ["Sessions", `${lanes.running} of ${lanes.limit}, ${lanes.queued} queued`],
    ["Uptime", duration(uptimeS)],
  ];
  facts.replaceChildren(
    ...rows.flatMap(([term, value]) => [element("dt", term), element("dd", value)]),
  );
}

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min`;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

for (const copy of document.querySelectorAll("[data-copy]")) {
  copy.hidden = navigator.clipboard === undefined; // insecure page
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).textContent);
    copy.nextElementSibling.textContent = "Copied.";
  });
}
watchHealth(show);
