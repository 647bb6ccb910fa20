/**
 * A diagnostics report for a bug report: figures, versions and what happened when. No audio, no words, no device
 * names, no addresses.
 */

import { diagnose } from "../diagnostics/diagnostics.js";
import { copyText, saveFile, timestamp } from "../save-file.js";

export class Report {
  /** `events`: the EventLog of the page. */
  constructor({ metrics, preferences, events }) {
    this._metrics = metrics;
    this._preferences = preferences;
    this._events = events;
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
    if (event.kind === "audio_tested") this._tested = event.checks;
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
      checks: diagnose(facts),
      audioTest: this._tested, // the latest; absent if there was none
      latencyMs: micToSpeaker.summary(),
      connection,
      stats,
      health: healthOf(this._events),
      events: this._events.events,
    };
    return `${JSON.stringify(report, null, 2)}\n`;
  }
}

/** The server's figures, without the words of its model. */
function healthOf({ health }) {
  if (health === null) return null;
  const { model, ...others } = health;
  return { ...others, model: model && { name: model.name, trained: model.trained } };
}
