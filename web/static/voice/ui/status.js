/**
 * How it is doing, in figures that move once a second: latency first, then the model, the sound, the server.
 *
 * Folded away, it costs nothing but one line; every figure has a name and a unit.
 */

import { Chart } from "./chart.js";
import { BUDGET_MS, FRAME_MS, FRAME_RATE_HZ } from "../units.js";

const NONE = "–";
const MIC_TO_SPEAKER_MS = 200;
const STATES = Object.freeze({
  ready: "Ready",
  not_ready: "Loading",
  draining: "Shutting down",
  unauthorized: "Locked",
  unreachable: "Unreachable",
});
const MODEL_LIMITS = [BUDGET_MS, FRAME_MS];

const ms = (value) => (value === null || value === undefined ? NONE : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
const count = (value) => (value === null || value === undefined ? NONE : String(value));
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export class Status {
  constructor(figures) {
    this._figures = figures;
    this._panel = document.getElementById("status");
    this._headline = document.getElementById("status-headline");
    const chart = (name, limits, unit) => new Chart(document.getElementById(`chart-${name}`), { limits, unit });
    this._charts = {
      latency: chart("latency", [MIC_TO_SPEAKER_MS], "ms"),
      rate: chart("rate", [], "steps a second"),
      encode: chart("encode", MODEL_LIMITS, "ms"),
      step: chart("step", MODEL_LIMITS, "ms"),
      decode: chart("decode", MODEL_LIMITS, "ms"),
      buffer: chart("buffer", [3 * FRAME_MS], "ms"),
    };
    this._health = null;
    this._model = null;
    this._panel.addEventListener("toggle", () => this._write(this._phase));
  }

  heed(event, phase) {
    this._phase = phase;
    switch (event.kind) {
      case "opening":
        for (const chart of Object.values(this._charts)) chart.clear();
        break;
      case "connection_established":
        this._model = event.model;
        break;
      case "stats":
        this._plot(event);
        break;
      case "health":
        this._health = event.health?.metrics === undefined ? null : event.health;
        this._state = event.health?.status ?? "unreachable";
        this._chip();
        this._write(phase);
        break;
      case "wire":
      case "ended":
        this._write(phase);
        break;
      default:
    }
  }

  _plot({ encodeMs, stepMs, decodeMs }) {
    const { micToSpeaker, played, stepHz } = this._figures;
    this._charts.latency.add(micToSpeaker.summary().p50);
    this._charts.rate.add(stepHz);
    this._charts.encode.add(encodeMs ?? null);
    this._charts.step.add(stepMs ?? null);
    this._charts.decode.add(decodeMs ?? null);
    this._charts.buffer.add(played?.bufferMs ?? null);
  }

  _chip() {
    const chip = document.getElementById("model");
    const model = this._health?.model;
    chip.textContent = model ? model.name : "";
    chip.hidden = !model;
    document.getElementById("server").dataset.state = this._state;
    document.getElementById("server-label").textContent = STATES[this._state];
  }

  _write(phase) {
    const { micToSpeaker, wire, played, stats, stepHz, sound } = this._figures;
    const latency = micToSpeaker.summary();
    this._headline.textContent =
      phase === "live" && latency.p50 !== null ? `mic → speaker ${ms(latency.p50)}` : "not connected";
    if (!this._panel.open) return;
    const set = (id, text) => {
      document.getElementById(`fig-${id}`).textContent = text;
    };
    set("latency", `${ms(latency.p50)} / ${ms(latency.p95)}`);
    set("rate", `${stepHz.toFixed(1)} of ${FRAME_RATE_HZ} /s`);
    set("encode", ms(stats?.encodeMs));
    set("step", ms(stats?.stepMs));
    set("decode", ms(stats?.decodeMs));
    set("buffer", ms(played?.bufferMs));
    set("round-trip", `${ms(wire?.roundTrip.p50)} / ${ms(wire?.roundTrip.p95)}`);
    set("lag", wire === null ? NONE : wire.unanswered === 1 ? "1 frame" : `${wire.unanswered} frames`);
    set("added", ms(stats?.addedMs));
    set("model-delay", ms(this._model?.modelDelayMs));
    set("device", sound === null ? NONE : device(sound));
    set("rate-hz", sound === null ? NONE : `${sound.rateHz / 1000} kHz`);
    set("granted", sound?.granted ? granted(sound.granted) : NONE);
    set("underruns", played === null ? NONE : underruns(played));
    set("trimmed", ms(played?.trimmedMs));
    set("cushion", ms(played?.cushionMs));
    set("server-underruns", count(stats?.underruns));
    set("dropped-up", count(wire === null ? null : wire.droppedFrames + this._figures.droppedUserFrames));
    set("dropped-down", count(wire === null ? null : this._figures.droppedAgentFrames));
    set("outbox", wire === null ? NONE : `${wire.outboxDepth} packets, ${wire.socketBytes} bytes`);
    set("words", wire?.words?.written ? words(wire.words) : NONE);
    set("lanes", lanes(stats, this._health));
    set("server-queues", queues(this._health));
    set("server-health", health(this._health));
  }
}

const underruns = ({ underruns: times, frames }) =>
  frames === 0 ? "0" : `${times} in ${frames} frames (${percent(times / frames)})`;

function device({ inputLatencyMs, outputLatencyMs }) {
  const out = `out ${ms(outputLatencyMs)}`;
  return inputLatencyMs === null ? out : `in ${ms(inputLatencyMs)}, ${out}`;
}

function granted({ echoCancellation, noiseSuppression, autoGainControl }) {
  const names = {
    "echo cancellation": echoCancellation,
    "noise suppression": noiseSuppression,
    "gain control": autoGainControl,
  };
  const on = Object.entries(names).filter(([, value]) => value).map(([name]) => name);
  return on.length === 0 ? "none" : on.join(", ");
}

function lanes(stats, healthNow) {
  if (stats !== null) return `${stats.lanesOpen} of ${stats.lanesMax}, ${stats.queued} waiting`;
  if (healthNow === null) return NONE;
  const { open, max, queued } = healthNow.lanes;
  return `${open} of ${max}, ${queued} waiting`;
}

function words({ written, leftOut, acked, unacked }) {
  const finals = unacked === 0 ? `${acked} acknowledged` : `${acked} of ${acked + unacked} acknowledged`;
  return `${written}, ${leftOut} left out, ${finals}`;
}

function queues(healthNow) {
  const named = Object.entries(healthNow?.metrics.queues ?? {});
  if (named.length === 0) return NONE;
  return named.map(([name, { depth, peak }]) => `${name} ${depth} (peak ${peak})`).join(", ");
}

function health(healthNow) {
  if (healthNow === null) return "does not answer";
  const { status, clients, metrics } = healthNow;
  return `${status.replace("_", " ")}, ${clients} connected, ${metrics.overBudget} steps over budget`;
}
