/**
 * The state of the page, described once: the header, the call status, the title and the icon all show this.
 *
 * Pure: what is known in, words out. `facts`: see facts.js; `health`: the last answer of /health, null if there was none,
 * undefined before the first.
 */

const SERVER_LABELS = Object.freeze({
  waiting: "Connecting…",
  ready: "Ready",
  full: "Full",
  not_ready: "Loading",
  draining: "Shutting down",
  unauthorized: "Token required",
  refused: "Refused",
  unreachable: "Offline",
  busy: "Waiting",
  connected: "Connected",
  reconnecting: "Reconnecting",
  stalled: "Not responding",
});

const IDLE_MESSAGES = Object.freeze({
  waiting: "Connecting to the server…",
  ready: "Press to start. The agent listens while it speaks.",
  full: "All sessions are in use. Press to wait in the queue.",
  not_ready: "The models are still loading. You can start when the server is ready.",
  draining: "The server is shutting down and accepts no new conversations.",
  unauthorized: "This server requires a token.",
  refused: "The server refuses this page.",
  unreachable: "The server is not reachable.",
});

const TITLES = Object.freeze({
  opening: "Connecting…",
  connecting: "Connecting…",
  paused: "Paused",
  lost: "Reconnecting…",
});

/** The server's state for a new conversation, from its /health. */
export function serverState(health) {
  if (health === undefined) return "waiting";
  if (health === null || health.code === "bad_gateway") return "unreachable";
  if (health.status !== "ready") return health.status in IDLE_MESSAGES ? health.status : "not_ready";
  const { room, queued } = health.lanes;
  return room === 0 || queued > 0 ? "full" : "ready";
}

/** Whether the page's state follows from both answers of /health alike: it is polled, and seldom says anything new. */
export function isSameHealth(one, other) {
  if (!one || !other) return one === other;
  const isSame = one.status === other.status && one.code === other.code;
  return isSame && one.lanes?.room === other.lanes?.room && one.lanes?.queued === other.lanes?.queued;
}

/** /health from before this page's session ended, which no longer takes a place. */
export function withoutOwnSession(health) {
  if (!health?.lanes) return health;
  const { running, room } = health.lanes;
  return { ...health, lanes: { ...health.lanes, running: Math.max(0, running - 1), room: room + 1 } };
}

const AUDIBLE_RMS = 0.01;
const PAUSE_FRAMES = 12; // about a second: a pause between two words ends no answer

/** Whether the agent is answering, by the level of its audio, frame by frame. */
export class AgentLevel {
  constructor() {
    this.clear();
  }

  clear() {
    this.isAnswering = false;
    this._quietFrames = 0;
  }

  /** Take the level of one frame. → whether `isAnswering` has changed. */
  changes(rms) {
    this._quietFrames = rms > AUDIBLE_RMS ? 0 : this._quietFrames + 1;
    const isAnswering = this._quietFrames === 0 || (this.isAnswering && this._quietFrames < PAUSE_FRAMES);
    const hasChanged = isAnswering !== this.isAnswering;
    this.isAnswering = isAnswering;
    return hasChanged;
  }
}

/** {server: {state, label}, message, title, icon}; `message` is null where the event at hand says more. */
export function describeState(facts) {
  const state = stateOf(facts);
  return {
    server: { state, label: SERVER_LABELS[state] },
    message: messageOf(facts, state),
    title: `${titleOf(facts, state)} · packet-voice`,
    icon: iconOf(facts, state),
  };
}

function stateOf({ phase, health, stalled }) {
  switch (phase) {
    case "live":
      return stalled ? "stalled" : "connected";
    case "queued":
    case "paused":
      return "busy";
    case "connecting":
      return health === null ? "unreachable" : "waiting";
    case "lost":
      return health === null ? "unreachable" : "reconnecting";
    default:
      return serverState(health);
  }
}

function messageOf({ phase, stalled, muted, withoutMicrophone, pushToTalk, isSample, isUnheard, isAnswering }, state) {
  if (phase === "idle") return IDLE_MESSAGES[state];
  if (phase !== "live") return null;
  if (stalled) return "No response from the server. Waiting…";
  if (isSample) return "A sample of the voice: the agent answers a question.";
  if (withoutMicrophone) return `${isAnswering ? "Answering" : "Connected"} without a microphone. Press a question to ask it.`;
  if (muted && pushToTalk) return `${isAnswering ? "Answering. " : ""}Hold “Hold to talk” or the space bar to speak.`;
  if (muted) return isAnswering ? "Answering. You are muted." : "You are muted.";
  if (isUnheard) return "Your microphone is silent.";
  if (pushToTalk) return "Listening. Let go when you have finished.";
  return isAnswering ? "Answering. You can interrupt." : "Listening. Just talk.";
}

function titleOf(facts, state) {
  if (facts.phase === "live") return liveTitle(facts, state);
  if (facts.phase === "queued") return `Queue: ${facts.position}`;
  const hasName = state === "ready" || state === "waiting";
  return TITLES[facts.phase] ?? (hasName ? (facts.name ?? "Talk") : SERVER_LABELS[state]);
}

function liveTitle({ recording, muted, pushToTalk, isAnswering }, state) {
  if (state === "stalled") return "Not responding";
  if (recording) return "● Recording";
  if (isAnswering) return "● Answering";
  if (muted) return pushToTalk ? "Hold to talk" : "Muted";
  return "● Listening";
}

function iconOf({ phase, muted }, state) {
  if (phase === "live" && state === "connected") return muted ? "waiting" : "live";
  if (phase !== "idle") return "waiting";
  return state === "unreachable" || state === "refused" || state === "unauthorized" ? "off" : "idle";
}
