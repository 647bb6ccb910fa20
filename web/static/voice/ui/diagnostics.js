/**
 * Why is there no sound? A check for each stage of the audio path, in the order of the signal.
 *
 * Pure: metrics over the last seconds in, checks {name, state, text} out. The metrics come from metrics.js,
 * diagnostics-panel.js shows the result.
 */

import { BUDGET_MS, FRAME_MS, FRAME_RATE_HZ } from "../units.js";

const DIGITAL_SILENCE_DB = -100;
const QUIET_DB = -55;
const MIN_FRAME_SHARE = 0.8; // of the frames expected
const MOSTLY_SILENT = 0.95;

const check = (name, state, text) => ({ name, state, text });
const db = (value) => `${Math.round(value)} dB`;

/**
 * `facts`: {phase, contextState, muted, sourceMuted, inputDb, upHz, downHz, paddingShare, modelMs, outputDb,
 * bargingIn, recentUnderruns, trained}. Null: not measured yet.
 */
export function diagnose(facts) {
  return [checkMicrophone(facts), checkConnection(facts), checkModel(facts), checkAgent(facts), checkSpeaker(facts)];
}

function checkMicrophone({ contextState, muted, sourceMuted, inputDb }) {
  const name = "Microphone";
  if (contextState === null || inputDb === null) return check(name, "idle", "Not in use. Start a conversation first.");
  if (contextState !== "running") return check(name, "bad", "The browser has paused audio on this page.");
  if (muted) return check(name, "warn", "You are muted; the agent hears silence.");
  if (sourceMuted) return check(name, "bad", "The system has muted the microphone.");
  if (inputDb <= DIGITAL_SILENCE_DB) {
    return check(name, "bad", "No signal: it is switched off, or the wrong microphone is selected.");
  }
  if (inputDb < QUIET_DB) {
    return check(name, "warn", `Very quiet (peak ${db(inputDb)}): speak up or move closer.`);
  }
  return check(name, "ok", `Working, peak ${db(inputDb)}.`);
}

function checkConnection({ phase, upHz, downHz }) {
  const name = "Connection";
  if (phase === "idle") return check(name, "idle", "Not connected.");
  if (phase === "queued") return check(name, "warn", "Waiting in the queue for a free session.");
  if (phase === "paused") return check(name, "warn", "The server is busy, and your conversation is paused.");
  if (phase !== "live") return check(name, "bad", "Not connected to the server.");
  if (upHz < MIN_FRAME_SHARE * FRAME_RATE_HZ) {
    return check(name, "bad", `Sending only ${upHz.toFixed(1)} of ${FRAME_RATE_HZ} frames per second.`);
  }
  if (downHz === 0) return check(name, "bad", "Sending audio, but receiving nothing.");
  if (downHz < MIN_FRAME_SHARE * FRAME_RATE_HZ) {
    return check(name, "warn", `Receiving only ${downHz.toFixed(1)} of ${FRAME_RATE_HZ} frames per second.`);
  }
  return check(name, "ok", `Sending ${upHz.toFixed(1)} and receiving ${downHz.toFixed(1)} frames per second.`);
}

function checkModel({ phase, modelMs }) {
  const name = "Model speed";
  if (phase !== "live" || modelMs === null) return check(name, "idle", "Not measured yet.");
  const time = `${modelMs.toFixed(0)} ms per frame`;
  if (modelMs > FRAME_MS) {
    return check(name, "bad", `${time}, more than the ${FRAME_MS} ms available: the server cannot keep up.`);
  }
  if (modelMs > BUDGET_MS) return check(name, "warn", `${time}: it keeps up, but responds late.`);
  return check(name, "ok", `${time}, of ${FRAME_MS} ms available.`);
}

function checkAgent({ phase, paddingShare, trained }) {
  const name = "Agent";
  if (phase !== "live" || paddingShare === null) return check(name, "idle", "Not measured yet.");
  const share = `${Math.round(100 * paddingShare)} % of its steps are pauses`;
  if (trained === false) return check(name, "warn", `The model is untrained; its output is noise. ${share}.`);
  if (paddingShare > MOSTLY_SILENT) return check(name, "warn", `Silent by choice of the model: ${share}.`);
  return check(name, "ok", `Talking: ${share}.`);
}

function checkSpeaker({ phase, outputDb, bargingIn, recentUnderruns }) {
  const name = "Speaker";
  if (phase !== "live" || outputDb === null) return check(name, "idle", "Nothing to play yet.");
  if (bargingIn) return check(name, "warn", "Turned down because you are speaking.");
  if (outputDb <= DIGITAL_SILENCE_DB) return check(name, "warn", "The received audio is silent.");
  if (recentUnderruns > 0) {
    const gaps = recentUnderruns === 1 ? "1 gap" : `${recentUnderruns} gaps`;
    return check(name, "warn", `Playing with gaps: ${gaps} in the last few seconds.`);
  }
  return check(name, "ok", `Playing, peak ${db(outputDb)}. If you hear nothing, check the volume.`);
}
