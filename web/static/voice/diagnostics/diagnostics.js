/**
 * Why is there no sound? A check for each stage of the audio path, in the order of the signal.
 *
 * Pure: metrics over the last seconds in, checks {name, state, text} out. The metrics come from metrics.js,
 * diagnostics-panel.js shows the result.
 */

import { BUDGET_MS, FRAME_MS, FRAME_RATE_HZ } from "../units.js";
import { PROBLEMS, isLoopback } from "../ui/messages.js";
import { INAUDIBLE_DB, LOUD_SHARE, MIN_FRAME_SHARE, QUIET_DB } from "./condition.js";

const DIGITAL_SILENCE_DB = -100;
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

function checkMicrophone({ contextState, muted, sourceMuted, inputDb, microphoneProblem, hasMicrophone }) {
  const name = "Microphone";
  if (microphoneProblem) {
    const { title, text } = PROBLEMS[microphoneProblem];
    return check(name, "bad", `${title}. ${text(globalThis.location ?? {})}`);
  }
  if (hasMicrophone === false && contextState !== null) {
    return check(name, "warn", "This call has no microphone. Press “Turn on mic”, or one of the questions.");
  }
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

function checkModel({ phase, modelMs, advice = null }) {
  const name = "Model speed";
  if (phase !== "live" || modelMs === null) return advice ? check(name, "bad", advice) : check(name, "idle", "Not measured yet.");
  const time = `${modelMs.toFixed(0)} ms per frame`;
  if (advice) return check(name, "bad", `${time} at the moment, but too slow lately. ${advice}`);
  if (modelMs > FRAME_MS) {
    return check(name, "bad", `${time}, more than the ${FRAME_MS} ms available: the server cannot keep up.`);
  }
  if (modelMs > BUDGET_MS) return check(name, "warn", `${time}: it keeps up, but responds late.`);
  return check(name, "ok", `${time}, of ${FRAME_MS} ms available.`);
}

function checkAgent({ phase, paddingShare, trained }) {
  const name = "Agent";
  if (phase !== "live" || paddingShare === null) return check(name, "idle", "Not measured yet.");
  const share = `${Math.round(100 * paddingShare)} % of its latest steps were pauses`;
  if (trained === false) return check(name, "warn", `The model is untrained; its output is noise. ${share}.`);
  if (paddingShare > MOSTLY_SILENT) return check(name, "ok", `Listening, and saying nothing at the moment: ${share}.`);
  return check(name, "ok", `It has spoken in the last seconds: ${share}.`);
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
  if (outputDb < INAUDIBLE_DB) return check(name, "ok", "The agent is not speaking at the moment.");
  return check(name, "ok", `Played in the last seconds, peak ${db(outputDb)}. If you heard nothing, check the volume.`);
}

const TEST_FRAMES = 40; // of about 60 in five seconds
const SLOW_NETWORK_MS = 80;

/**
 * Before a call, after five seconds of hearing oneself: `frames` played back with `underruns`, the loudest `inputPeak`
 * (0 to 1), the `clippedShare` of its frames, the `roundTripMs` to the server (null: none), its `health` (null: none); `problem`: why there was no sound
 * at all, one of PROBLEMS. → checks like diagnose().
 */
export function checkBeforeCall({ frames, underruns, inputPeak, clippedShare = 0, roundTripMs, health, problem = null }) {
  return [
    ...(problem === null ? [checkInputLevel(inputPeak, clippedShare), checkPlayback(frames, underruns)] : checkNothing(problem)),
    checkNetwork(roundTripMs),
    checkMachine(health),
  ];
}

function checkInputLevel(inputPeak, clippedShare) {
  const name = "Microphone";
  const peakDb = 20 * Math.log10(inputPeak);
  if (inputPeak === 0) return check(name, "bad", "No signal: check its mute switch, or select another one in Settings.");
  if (peakDb < QUIET_DB) return check(name, "warn", `Very quiet (peak ${db(peakDb)}): speak up, or raise its input level.`);
  if (clippedShare > LOUD_SHARE) {
    return check(name, "warn", "Too loud: turn off automatic gain control in Settings, lower its input level, or move away a little.");
  }
  return check(name, "ok", `Peak ${db(peakDb)}.`);
}

function checkNothing(problem) {
  return [
    check("Microphone", "bad", `${problem.title}. ${problem.text(globalThis.location ?? {})}`),
    check("Loudspeaker", "idle", "Not checked: without a microphone there is nothing to play."),
  ];
}

function checkPlayback(frames, underruns) {
  const name = "Loudspeaker";
  if (frames < TEST_FRAMES) return check(name, "bad", "Almost nothing was played: the browser did not start audio, or is too busy.");
  if (underruns > 2) return check(name, "warn", `Played with ${underruns} gaps: this device is busy. Close other tabs.`);
  return check(name, "ok", "Played without gaps. If you heard nothing, check the volume and the selected device.");
}

function checkNetwork(roundTripMs) {
  const name = "Network";
  if (roundTripMs === null) return check(name, "bad", "The server does not answer.");
  const time = `${Math.max(1, Math.round(roundTripMs))} ms to the server and back`;
  if (roundTripMs <= SLOW_NETWORK_MS) return check(name, "ok", `${time}.`);
  return isLoopback(globalThis.location ?? {})
    ? check(name, "warn", `${time}, on this computer itself: it is busy, and answers will be late. Close other programs.`)
    : check(name, "warn", `${time}: answers will be late.`);
}

function checkMachine(health) {
  const name = "Machine";
  if (health?.status !== "ready") return check(name, "bad", "The server is not ready for a conversation.");
  const { encode, step, decode } = health.metrics ?? {};
  if (!step?.count) return check(name, "idle", "Not measured yet: no conversation since the server started.");
  const modelMs = (encode?.p50 ?? 0) + step.p50 + (decode?.p50 ?? 0);
  const time = `${modelMs.toFixed(0)} ms for ${FRAME_MS} ms of audio`;
  const advice = health.capacity?.advice;
  if (advice) return check(name, "bad", `Usually ${time}, but too slow lately. ${advice}`);
  return modelMs > FRAME_MS ? check(name, "bad", `${time}: too slow to talk.`) : check(name, "ok", `${time}.`);
}
