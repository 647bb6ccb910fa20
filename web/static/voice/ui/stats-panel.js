/**
 * Connection statistics, updated once a second: latency, model, playback, server.
 *
 * While the panel is closed only its headline is updated.
 */

import { BUDGET_MS, FRAME_MS, FRAME_RATE_HZ } from "../units.js";
import { Chart } from "./chart.js";
import { STATS } from "./stats-markup.js";

const NONE = "–";
const MIC_TO_SPEAKER_MS = 200;
const MODEL_LIMITS = [BUDGET_MS, FRAME_MS];

const ms = (value) => (value === null || value === undefined ? NONE : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
const digits = (number) => number.toFixed(0); // the browser keeps what String() makes of a count: 64 kB for one that grows
const count = (value) => (value === null || value === undefined ? NONE : digits(value));
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export class StatsPanel {
  constructor(metrics) {
    this._metrics = metrics;
    this._panel = document.getElementById("stats");
    this._panel.insertAdjacentHTML("beforeend", STATS);
    this._headline = document.getElementById("stats-headline");
    const chart = (name, limits, unit) => new Chart(document.getElementById(`chart-${name}`), { limits, unit });
    this._charts = {
      latency: chart("latency", [MIC_TO_SPEAKER_MS], "ms"),
      rate: chart("rate", [], "steps per second"),
      encode: chart("encode", MODEL_LIMITS, "ms"),
      step: chart("step", MODEL_LIMITS, "ms"),
      decode: chart("decode", MODEL_LIMITS, "ms"),
      buffer: chart("buffer", [3 * FRAME_MS], "ms"),
    };
    this._health = null;
    this._model = null;
    this._panel.addEventListener("toggle", () => this._render(this._phase));
  }

  onEvent(event, phase) {
    this._phase = phase;
    switch (event.kind) {
      case "opening":
        for (const chart of Object.values(this._charts)) chart.clear();
        break;
      case "connection_established":
        this._model = event.model;
        break;
      case "stats":
        this._updateCharts(event);
        break;
      case "health":
        this._health = event.health?.metrics === undefined ? null : event.health;
        this._render(phase);
        break;
      case "ready":
      case "resumed":
      case "continued":
      case "paused":
      case "lost":
      case "connection_stats":
      case "ended":
        this._render(phase);
        break;
      default:
    }
  }

  _updateCharts({ encodeMs, stepMs, decodeMs }) {
    const { micToSpeaker, played, stepHz } = this._metrics;
    this._charts.latency.add(micToSpeaker.summary().p50);
    this._charts.rate.add(stepHz);
    this._charts.encode.add(encodeMs ?? null);
    this._charts.step.add(stepMs ?? null);
    this._charts.decode.add(decodeMs ?? null);
    this._charts.buffer.add(played?.bufferMs ?? null);
  }

  _render(phase) {
    const { micToSpeaker, connection, played, stats, stepHz, audio } = this._metrics;
    const latency = micToSpeaker.summary();
    const measured = latency.p50 === null ? "Measuring…" : `Mic to speaker ${ms(latency.p50)}`;
    this._headline.textContent = phase === "live" || phase === "paused" ? measured : "Not connected";
    if (!this._panel.open) return;
    const set = (id, text) => {
      document.getElementById(`stat-${id}`).textContent = text;
    };
    set("latency", `${ms(latency.p50)} / ${ms(latency.p95)}`);
    set("rate", `${stepHz.toFixed(1)} of ${FRAME_RATE_HZ} /s`);
    set("encode", ms(stats?.encodeMs));
    set("step", ms(stats?.stepMs));
    set("decode", ms(stats?.decodeMs));
    set("buffer", ms(played?.bufferMs));
    set("round-trip", `${ms(connection?.roundTrip.p50)} / ${ms(connection?.roundTrip.p95)}`);
    set("in-flight", connection === null ? NONE : count(connection.unanswered));
    set("overhead", ms(stats?.addedMs));
    set("model-delay", ms(this._model?.modelDelayMs));
    set("device", audio === null ? NONE : formatDeviceLatency(audio));
    set("sample-rate", audio === null ? NONE : `${audio.rateHz / 1000} kHz`);
    set("processing", audio?.granted ? formatProcessing(audio.granted) : NONE);
    set("underruns", played === null ? NONE : formatUnderruns(played));
    set("trimmed", ms(played?.trimmedMs));
    set("target-delay", ms(played?.targetDelayMs));
    set("server-underruns", count(stats?.underruns));
    set("dropped-up", count(connection === null ? null : connection.droppedFrames + this._metrics.droppedUserFrames));
    set("dropped-down", count(connection === null ? null : this._metrics.droppedAgentFrames));
    set("send-queue", connection === null ? NONE : formatSendQueue(connection));
    set("captions", connection?.captions?.sent ? formatCaptions(connection.captions) : NONE);
    set("sessions", formatSessions(phase === "live" ? stats : null, this._health));
    set("server-queues", formatQueues(this._health));
    set("server-status", formatHealth(this._health));
  }
}

const formatUnderruns = ({ underruns, frames }) =>
  frames === 0 ? "0" : `${digits(underruns)} in ${digits(frames)} frames (${percent(underruns / frames)})`;

const formatSendQueue = ({ sendQueueDepth, socketBytes }) => `${digits(sendQueueDepth)} packets, ${digits(socketBytes)} bytes`;

function formatDeviceLatency({ inputLatencyMs, outputLatencyMs }) {
  const out = `out ${ms(outputLatencyMs)}`;
  return inputLatencyMs === null ? out : `in ${ms(inputLatencyMs)}, ${out}`;
}

function formatProcessing({ echoCancellation, noiseSuppression, autoGainControl }) {
  const names = {
    "echo cancellation": echoCancellation,
    "noise suppression": noiseSuppression,
    "gain control": autoGainControl,
  };
  const on = Object.entries(names).filter(([, value]) => value).map(([name]) => name);
  return on.length === 0 ? "none" : on.join(", ");
}

function formatSessions(stats, health) {
  if (health !== null) return `${health.lanes.running} of ${health.lanes.limit}, ${health.lanes.queued} queued`;
  return stats === null ? NONE : `${stats.lanesOpen} of ${stats.lanesMax}, ${stats.queued} queued`;
}

function formatCaptions({ sent, dropped, acked, unacked }) {
  const finals = `${digits(acked)}${unacked === 0 ? "" : ` of ${digits(acked + unacked)}`} acknowledged`;
  return `${digits(sent)}, ${digits(dropped)} dropped, ${finals}`;
}

function formatQueues(health) {
  const named = Object.entries(health?.metrics.queues ?? {});
  if (named.length === 0) return NONE;
  return named.map(([name, { depth, peak }]) => `${name} ${depth} (peak ${peak})`).join(", ");
}

function formatHealth(health) {
  if (health === null) return "offline";
  const { status, metrics } = health;
  return `${status.replace("_", " ")}, ${digits(metrics.overBudget)} steps over budget`;
}
