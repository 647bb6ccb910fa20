/**
 * The phase of a call and the other facts that state.js describes, and how events change them. Pure.
 *
 * An event of any other kind changes nothing, and then nothing of the page's state need be drawn again.
 */

import { isSameHealth, withoutOwnSession } from "./state.js";

export const HOLDING = new Set(["live", "paused", "lost", "closing"]); // this page's session has a place on the server

const PHASE_AFTER = Object.freeze({
  opening: "opening",
  connecting: "connecting",
  queued: "queued",
  ready: "live",
  paused: "paused",
  continued: "live",
  resumed: "live",
  lost: "lost",
  closing: "closing",
  failed: "idle",
  ended: "idle",
});

const NO_CALL = Object.freeze({
  stalled: false,
  muted: false,
  withoutMicrophone: false,
  isSample: false,
  isUnheard: false,
  isAnswering: false,
  isReconnecting: false,
  condition: null,
});

// What an event changes, besides the phase.
const CHANGES = Object.freeze({
  health: ({ health }, facts) => {
    const isCounted = HOLDING.has(facts.phase);
    return isCounted === facts.isCounted && isSameHealth(health, facts.health) ? undefined : { health, isCounted };
  },
  preferences: ({ pushToTalk }) => ({ pushToTalk }),
  opening: ({ isSample }) => ({ ...NO_CALL, isSample }),
  failed: () => NO_CALL,
  ended: (_, { health, isCounted }) => ({ ...NO_CALL, health: isCounted ? withoutOwnSession(health) : health, isCounted: false }),
  connecting: (_, { phase }) => ({ isReconnecting: phase === "lost" }),
  lost: () => ({ isReconnecting: false }), // for the moment: the next attempt has a time
  queued: ({ position }) => ({ position }),
  paused: ({ position }) => ({ position }),
  stalled: ({ stalled }) => ({ stalled }),
  muted: ({ muted }) => ({ muted }),
  audio_state: ({ hasMicrophone }) => (hasMicrophone === undefined ? {} : { withoutMicrophone: !hasMicrophone }),
  recorder: ({ on }) => ({ recording: on }),
  answering: ({ answering }) => ({ isAnswering: answering }),
  condition: ({ condition, isUnheard }) => ({ condition, isUnheard }),
});

/** The facts before the first event. */
export function initialFacts({ pushToTalk }) {
  return { ...NO_CALL, phase: "idle", health: undefined, isCounted: false, pushToTalk, recording: false, position: null };
}

/** idle, opening, connecting, queued, live, paused (put back into the queue), lost or closing. */
export function nextPhase(phase, { kind }) {
  // Once the user has ended the call, late events do not reopen it.
  if (phase === "closing" && kind !== "ended") return phase;
  if (phase === "lost" && kind === "connecting") return phase; // an attempt that fails at once changes nothing to be seen
  return PHASE_AFTER[kind] ?? phase;
}

/** The facts after an event: the same object if it changes none. */
export function nextFacts(facts, event) {
  const phase = nextPhase(facts.phase, event);
  const changes = CHANGES[event.kind]?.(event, facts);
  return phase === facts.phase && changes === undefined ? facts : { ...facts, ...changes, phase };
}
