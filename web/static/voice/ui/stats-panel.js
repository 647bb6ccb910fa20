/**
 * Connection statistics, updated once a second: latency, model, playback, server.
 *
 * While the panel is closed only its headline is updated.
 */

import { FRAME_RATE_HZ } from "../units.js";
import { Listener } from "../listener.js";
import { Chart } from "./chart.js";
import { STATS } from "./stats-markup.js";

const NONE = "–";

const ms = (value) => (value === null || value === undefined ? NONE : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
const pair = (summary) => `${ms(summary?.p50)} / ${ms(summary?.p95)}`;
const digits = (number) => number.toFixed(0); // the browser keeps what String() makes of a count: 64 kB for one that grows
const count = (value) => (value === null || value === undefined ? NONE : digits(value));
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export class StatsPanel extends Listener {
  constructor(metrics) {
    super();
    this._metrics = metrics;
    this._panel = document.getElementById("stats");
    this._panel.insertAdjacentHTML("beforeend", STATS);
    this._headline = document.getElementById("stats-headline");
    this._charts = Array.from(this._panel.querySelectorAll("canvas"), (canvas) => new Chart(canvas));
    this._health = null;
    this._isInCall = false;
    this._panel.addEventListener("toggle", () => this._showAll());
  }

  on_opening() {
    this._charts.forEach((chart) => chart.clear());
    this._showAll();
  }

  on_stats() {
    this._charts.forEach((chart) => chart.add(this._metrics.at(chart.path)));
  }

  on_health({ health }) {
    this._health = health?.metrics === undefined ? null : health;
    this._showServer();
  }

  on_audio_state() {
    this._showAudio();
  }

  on_connection_stats() {
    this._showCall();
  }

  onState(_state, { phase }) {
    const isInCall = phase === "live" || phase === "paused";
    if (isInCall === this._isInCall) return;
    this._isInCall = isInCall;
    this._showAll();
  }

  _showAll() {
    this._showCall();
    this._showServer();
    this._showAudio();
  }

  _set(id, text) {
    if (this._panel.open) document.getElementById(`stat-${id}`).textContent = text;
  }

  /** Write the metrics that are named in this attribute. */
  _write(name, format) {
    this._panel.querySelectorAll(`[${name}]`).forEach((element) => {
      element.textContent = format(this._metrics.at(element.getAttribute(name)));
    });
  }

  /** What changes every second. */
  _showCall() {
    const { connection, played, latency, stepHz } = this._metrics;
    const measured = latency.p50 === null ? "Measuring…" : `Mic to speaker ${ms(latency.p50)}`;
    this._headline.textContent = this._isInCall ? measured : "Not connected";
    if (!this._panel.open) return;
    this._write("data-ms", ms);
    this._write("data-pair", pair);
    this._write("data-count", count);
    this._set("rate", `${stepHz.toFixed(1)} of ${FRAME_RATE_HZ} /s`);
    this._set("underruns", played === null ? NONE : formatUnderruns(played));
    this._set("send-queue", connection === null ? NONE : formatSendQueue(connection));
    this._set("captions", connection?.captions?.sent ? formatCaptions(connection.captions) : NONE);
  }

  _showAudio() {
    const { audio } = this._metrics;
    const isKnown = audio?.rateHz !== undefined;
    this._set("device", isKnown ? formatDeviceLatency(audio) : NONE);
    this._set("sample-rate", isKnown ? `${audio.rateHz / 1000} kHz` : NONE);
    this._set("processing", audio?.granted ? formatProcessing(audio.granted) : NONE);
  }

  _showServer() {
    this._set("sessions", formatSessions(this._isInCall ? this._metrics.stats : null, this._health));
    this._set("server-queues", formatQueues(this._health));
    this._set("server-status", formatHealth(this._health));
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
