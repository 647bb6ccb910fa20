/**
 * A diagnostics report for a bug report: figures, versions and what happened when. No audio, no words, no device
 * names, no addresses.
 */

import { diagnose } from "./diagnostics.js";
import { copyText, saveFile, timestamp } from "../save-file.js";

const MAX_EVENTS = 200;
const IGNORED = new Set(["captured", "played", "connection_stats", "text", "user_text", "stats"]);
const FIELDS = ["why", "code", "state", "position", "inMs", "what", "count", "stalled", "resuming", "muted", "on"];

export class Report {
  constructor(metrics, preferences) {
    this._metrics = metrics;
    this._preferences = preferences;
    this._events = [];
    this._health = null;
    const result = document.getElementById("report-result");
    document.getElementById("copy-report").addEventListener("click", async () => {
      const isCopied = await copyText(this.text());
      result.textContent = isCopied ? "Copied." : "The browser did not allow copying. Save it instead.";
    });
    document.getElementById("save-report").addEventListener("click", () => {
      saveFile(new Blob([this.text()], { type: "application/json" }), `diagnostics-${timestamp()}.json`);
      result.textContent = "Saved.";
    });
  }

  onEvent(event, phase) {
    this._phase = phase;
    if (event.kind === "health") this._onHealth(event.health);
    else if (!IGNORED.has(event.kind)) this._add(event);
  }

  text() {
    const { audio, stats, connection, micToSpeaker } = this._metrics;
    const { deviceId: _input, outputId: _output, ...preferences } = this._preferences;
    const { granted, ...path } = audio ?? {};
    const { label: _label, ...processing } = granted ?? {};
    const facts = this._metrics.diagnosticFacts(this._phase ?? "idle", this._preferences, performance.now());
    const report = {
      time: new Date().toISOString(),
      page: new URL(import.meta.url).pathname.split("/")[2], // the version of the files
      browser: navigator.userAgent,
      isSecureContext,
      crossOriginIsolated,
      cores: navigator.hardwareConcurrency,
      phase: this._phase,
      preferences,
      audio: { ...path, processing },
      checks: diagnose(facts).map(({ name, state, text }) => ({ name, state, text })),
      latencyMs: micToSpeaker.summary(),
      connection,
      stats,
      health: this._health,
      events: this._events,
    };
    return `${JSON.stringify(report, null, 2)}\n`;
  }

  _onHealth(health) {
    const status = health === null ? "unreachable" : health.status;
    if (status !== this._status) this._add({ kind: `health: ${status}` });
    this._status = status;
    if (health?.metrics === undefined) return;
    const { model, ...others } = health;
    this._health = { ...others, model: model && { name: model.name, trained: model.trained } };
  }

  _add(event) {
    const fields = FIELDS.filter((name) => event[name] !== undefined).map((name) => [name, event[name]]);
    this._events.push({ ms: Math.round(performance.now()), kind: event.kind, ...Object.fromEntries(fields) });
    if (this._events.length > MAX_EVENTS) this._events.shift();
  }
}
