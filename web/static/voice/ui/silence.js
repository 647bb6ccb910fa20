/**
 * Silence always has a cause that can be named: each link of the chain gets a verdict, in the order of the sound.
 *
 * Pure: what was measured over the last seconds in, verdicts out. `ok`, `warn` and `bad` are for the eye,
 * the sentence says it in words. What does not belong here: measuring (silent.js).
 */

import { BUDGET_MS, FRAME_MS, FRAME_RATE_HZ } from "../units.js";

const DIGITAL_SILENCE_DB = -100;
const FAINT_DB = -55;
const ENOUGH = 0.8; // of the frames that should have passed
const MOSTLY_SILENT = 0.95;

const verdict = (name, state, sentence) => ({ name, state, sentence });
const db = (value) => `${Math.round(value)} dB`;

/**
 * `facts`: {phase, contextState, muted, sourceMuted, inputDb, upHz, downHz, paddingShare, stepMs, modelMs,
 * outputDb, barging, underrunsLately, trained}. Null where nothing was measured yet.
 */
export function diagnose(facts) {
  return [input(facts), connection(facts), computing(facts), words(facts), output(facts)];
}

function input({ contextState, muted, sourceMuted, inputDb }) {
  const name = "Your microphone";
  if (contextState === null || inputDb === null) return verdict(name, "idle", "Not listening yet: start first.");
  if (contextState !== "running") return verdict(name, "bad", "The browser has paused the sound of this page.");
  if (muted) return verdict(name, "warn", "You are muted; the agent hears silence.");
  if (sourceMuted) return verdict(name, "bad", "The system has switched the microphone off.");
  if (inputDb <= DIGITAL_SILENCE_DB) {
    return verdict(name, "bad", "It delivers pure zeros: it is switched off, or the wrong one is chosen.");
  }
  if (inputDb < FAINT_DB) {
    return verdict(name, "warn", `Very quiet (peaks of ${db(inputDb)}): speak up or move closer.`);
  }
  return verdict(name, "ok", `Heard, with peaks of ${db(inputDb)}.`);
}

function connection({ phase, upHz, downHz }) {
  const name = "The connection";
  if (phase === "idle") return verdict(name, "idle", "Not connected.");
  if (phase === "queued") return verdict(name, "warn", "Waiting in the queue for a free place.");
  if (phase !== "live") return verdict(name, "bad", "Not connected to the server right now.");
  if (upHz < ENOUGH * FRAME_RATE_HZ) {
    return verdict(name, "bad", `Only ${upHz.toFixed(1)} of ${FRAME_RATE_HZ} frames a second leave this page.`);
  }
  if (downHz === 0) return verdict(name, "bad", "Your voice goes up, and nothing comes back.");
  if (downHz < ENOUGH * FRAME_RATE_HZ) {
    return verdict(name, "warn", `Only ${downHz.toFixed(1)} of ${FRAME_RATE_HZ} frames a second come back.`);
  }
  return verdict(name, "ok", `${upHz.toFixed(1)} frames a second go up, ${downHz.toFixed(1)} come back.`);
}

function computing({ phase, modelMs }) {
  const name = "The model's speed";
  if (phase !== "live" || modelMs === null) return verdict(name, "idle", "Not measured yet.");
  const took = `A frame takes ${modelMs.toFixed(0)} ms`;
  if (modelMs > FRAME_MS) {
    return verdict(name, "bad", `${took}, more than the ${FRAME_MS} ms it lasts: this machine cannot keep up.`);
  }
  if (modelMs > BUDGET_MS) return verdict(name, "warn", `${took}: it keeps up, but answers late.`);
  return verdict(name, "ok", `${took} of the ${FRAME_MS} ms it may take.`);
}

function words({ phase, paddingShare, trained }) {
  const name = "The agent's words";
  if (phase !== "live" || paddingShare === null) return verdict(name, "idle", "Not measured yet.");
  const share = `${Math.round(100 * paddingShare)} % of its steps are pauses`;
  if (trained === false) return verdict(name, "warn", `The model is untrained; what it says is noise. ${share}.`);
  if (paddingShare > MOSTLY_SILENT) return verdict(name, "warn", `The agent has chosen to stay silent: ${share}.`);
  return verdict(name, "ok", `The agent is talking: ${share}.`);
}

function output({ phase, outputDb, barging, underrunsLately }) {
  const name = "Your loudspeaker";
  if (phase !== "live" || outputDb === null) return verdict(name, "idle", "Nothing to play yet.");
  if (barging) return verdict(name, "warn", "Turned down, because you are speaking.");
  if (outputDb <= DIGITAL_SILENCE_DB) return verdict(name, "warn", "What arrives is silence.");
  if (underrunsLately > 0) {
    return verdict(name, "warn", `Playing with gaps: ${underrunsLately} in the last seconds.`);
  }
  return verdict(name, "ok", `Playing, with peaks of ${db(outputDb)}. If you hear nothing, check the volume.`);
}
