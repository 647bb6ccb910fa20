/** The troubleshooting panel: the result of each check, and an audio test that works without the server. */

import { serverUrl } from "../server-url.js";
import { CLIPPED_SAMPLES } from "../diagnostics/condition.js";
import { checkBeforeCall, diagnose } from "../diagnostics/diagnostics.js";
import { PROBLEMS } from "./messages.js";

const REFRESH_MS = 500;
const ROUND_TRIPS = 4;
const ICONS = Object.freeze({ ok: "✓", warn: "!", bad: "✕", idle: "·" });
const STATE_LABELS = Object.freeze({ ok: "OK", warn: "Warning", bad: "Problem", idle: "Not checked" });

const namesOf = (rows) => rows.map(({ name }) => name).join(" and ");
const formatGaps = (count) => (count === 1 ? "1 gap" : `${count === 0 ? "no" : count} gaps`);

export class DiagnosticsPanel {
  constructor({ metrics, preferences, testAudio, onEvent }) {
    this._onEvent = onEvent;
    this._metrics = metrics;
    this._preferences = preferences;
    this._phase = "idle";
    this._panel = document.getElementById("diagnostics");
    this._checks = document.getElementById("checks");
    this._results = document.getElementById("test-results");
    this._testButton = document.getElementById("audio-test");
    this._testButton.addEventListener("click", testAudio);
    this._resultElement = document.getElementById("audio-test-result");
    this._result = this._resultElement.textContent;
    this._isTesting = false;
    this._panel.addEventListener("toggle", () => this._render());
    setInterval(() => this._render(), REFRESH_MS);
    this._render(); // it may have been opened before it was loaded
  }

  onEvent(event, phase) {
    this._phase = phase;
    if (event.kind === "health") this._health = event.health;
    if (event.kind === "captured" && this._isTesting) {
      this._inputPeak = Math.max(this._inputPeak, ...event.peaks);
      this._capturedFrames += 1;
      if (event.clipped >= CLIPPED_SAMPLES) this._clippedFrames += 1;
    }
    if (event.kind === "opening") {
      this._isTesting = event.echo;
      this._frames = 0;
      this._underruns = 0;
      this._maxRms = 0;
      this._inputPeak = 0;
      this._capturedFrames = 0;
      this._clippedFrames = 0;
      if (event.echo) this._setResult("Say something: your voice is played back by this page, without the server.");
    } else if (event.kind === "played" && this._isTesting) {
      this._frames = event.frames;
      this._underruns = event.underruns;
      this._maxRms = Math.max(this._maxRms, event.rms);
    } else if (event.kind === "failed" && this._isTesting) {
      this._isTesting = false;
      this._setResult("The microphone could not be opened.");
      this._showChecks(PROBLEMS[event.why]);
    } else if (event.kind === "ended" && this._isTesting) {
      this._isTesting = false;
      this._setResult("Checking the network and the machine…");
      this._showChecks();
    }
    this._testButton.disabled = phase !== "idle";
    this._showTestState();
  }

  /** Why the test cannot be made now, or what came of it. */
  _showTestState() {
    const isElse = this._phase !== "idle" && !this._isTesting;
    const text = isElse ? "Stop the conversation to test audio." : this._result;
    if (this._resultElement.textContent !== text) this._resultElement.textContent = text;
  }

  /** What the rows say, in one sentence. */
  _summaryOf([microphone, loudspeaker, ...others]) {
    const { p50 } = this._metrics.micToSpeaker.summary();
    const failed = [microphone, loudspeaker].filter(({ state }) => state === "bad");
    if (failed.length > 0) return `Audio does not work yet: see ${namesOf(failed)} below.`;
    const doubtful = [microphone, loudspeaker, ...others].filter(({ state }) => state === "warn" || state === "bad");
    const played = `${this._frames} frames played back after ${p50.toFixed(0)} ms, with ${formatGaps(this._underruns)}`;
    const advice =
      doubtful.length > 0 ? `But see ${namesOf(doubtful)} below.` : "If you heard nothing, check the volume and the selected speaker.";
    return `Audio works: ${played}. ${advice}`;
  }

  /** One line each: microphone, loudspeaker, network, machine. */
  async _showChecks(problem = null) {
    const roundTripMs = await measureRoundTrip();
    const [frames, underruns, inputPeak] = [this._frames, this._underruns, this._inputPeak];
    const health = this._health ?? null;
    const clippedShare = this._clippedFrames / Math.max(1, this._capturedFrames);
    const rows = checkBeforeCall({ frames, underruns, inputPeak, clippedShare, roundTripMs, health, problem });
    if (problem === null) this._setResult(this._summaryOf(rows));
    this._results.hidden = false;
    this._results.replaceChildren(...rows.map(rowOf));
    this._onEvent({ kind: "audio_tested", checks: rows });
  }

  _setResult(text) {
    this._result = text;
    this._showTestState();
  }

  _render() {
    if (!this._panel.open) return;
    if (this._isTesting) return; // a test is no conversation: these checks say nothing about it
    const checks = diagnose(this._metrics.diagnosticFacts(this._phase, this._preferences, performance.now()));
    this._checks.replaceChildren(...checks.map(rowOf));
  }
}

function rowOf({ name, state, text }) {
  const row = document.createElement("li");
  row.dataset.state = state;
  const icon = document.createElement("span");
  icon.className = "icon";
  icon.setAttribute("role", "img");
  icon.setAttribute("aria-label", STATE_LABELS[state]);
  icon.textContent = ICONS[state];
  const body = document.createElement("span");
  const title = document.createElement("strong");
  title.textContent = name;
  body.append(title, ` ${text}`);
  row.append(icon, body);
  return row;
}

/** The shortest of a few requests, in milliseconds; null if the server does not answer. */
async function measureRoundTrip() {
  const times = [];
  try {
    for (let i = 0; i < ROUND_TRIPS; i += 1) {
      const startMs = performance.now();
      await fetch(serverUrl("health/live"), { cache: "no-store" });
      times.push(performance.now() - startMs);
    }
  } catch {
    return null;
  }
  return Math.min(...times);
}
