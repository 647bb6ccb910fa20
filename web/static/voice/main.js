/**
 * Entry point of the voice page: one call at a time, every event to every view, every user action to the call.
 *
 * Neighbours: views in ui/ decide how things look; call.js and below do the work.
 */

import { AudioError } from "./audio/microphone.js";
import { Call } from "./call.js";
import { BrowserCaptions } from "./captions/browser-captions.js";
import { WhisperCaptions } from "./captions/whisper-captions.js";
import { watchHealth } from "./health.js";
import { nextPhase } from "./phase.js";
import { loadPreferences, savePreferences } from "./preferences.js";
import { exchangeToken } from "./token.js";
import { CallControl } from "./ui/call-control.js";
import { DiagnosticsPanel } from "./ui/diagnostics-panel.js";
import { Metrics } from "./ui/metrics.js";
import { Notices } from "./ui/notices.js";
import { PersonaPanel } from "./ui/persona.js";
import { Recording } from "./ui/recording.js";
import { SettingsDialog } from "./ui/settings-dialog.js";
import { addShortcuts } from "./ui/shortcuts.js";
import { StatsPanel } from "./ui/stats-panel.js";
import { Suggestions } from "./ui/suggestions.js";
import { Transcript } from "./ui/transcript.js";
import { Waveforms } from "./ui/waveforms.js";

const ECHO_TEST_MS = 5000;

class Page {
  constructor() {
    this._preferences = loadPreferences(localStorage);
    this._phase = "idle";
    this._call = null;
    this._muted = false;
    this._metrics = new Metrics();
    this._captions = new WhisperCaptions(this._preferences, { onEvent: (event) => this.onEvent(event) });
    this._views = [
      new CallControl({
        toggle: () => this.toggle(),
        mute: () => this.mute(),
      }),
      new PersonaPanel(this._preferences, { onChange: (name) => this._onPreferenceChange(name) }),
      new Suggestions(),
      new Waveforms(),
      new Transcript(),
      new Notices({ resume: () => this._call?.resume() }),
      new StatsPanel(this._metrics),
      new DiagnosticsPanel(this._metrics, this._preferences, { testAudio: () => this._testAudio() }),
      new Recording({ record: (recording) => this._call?.record(recording) }),
      new SettingsDialog(this._preferences, { onChange: (name) => this._onPreferenceChange(name) }),
      new BrowserCaptions(this._preferences, { onEvent: (event) => this.onEvent(event) }),
    ];
    addShortcuts(this._preferences, { toggle: () => this.toggle(), mute: () => this.mute() });
    exchangeToken().finally(() => watchHealth((health) => this.onEvent({ kind: "health", health })));
  }

  /** Every event passes through here, in order. */
  onEvent(event) {
    this._phase = nextPhase(this._phase, event);
    this._metrics.onEvent(event, performance.now());
    for (const view of this._views) view.onEvent(event, this._phase);
  }

  toggle() {
    if (this._phase === "idle") this._start({ echo: false });
    else this._stop();
  }

  mute() {
    if (this._call === null) return;
    this._muted = !this._muted;
    this._call.mute(this._muted);
    this.onEvent({ kind: "muted", muted: this._muted });
  }

  async _start({ echo }) {
    this.onEvent({ kind: "opening", echo });
    this._muted = false;
    const url = new URL("ws", location.href.replace(/^http/, "ws")).href; // also under a path prefix
    try {
      this._call = await Call.open({
        url,
        preferences: this._preferences,
        echo,
        captions: this._captions,
        onEvent: (event) => this.onEvent(event),
      });
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      this.onEvent({ kind: "failed", why: error.why });
      return;
    }
    if (this._phase === "closing") this._call.close(); // stopped during the permission prompt
    await this._call.ended;
    this._call = null;
  }

  _stop() {
    this.onEvent({ kind: "closing" });
    this._call?.close();
  }

  async _testAudio() {
    if (this._phase !== "idle") return;
    const run = this._start({ echo: true });
    setTimeout(() => this._call?.close(), ECHO_TEST_MS);
    await run;
  }

  async _onPreferenceChange(changed) {
    savePreferences(localStorage, this._preferences);
    this.onEvent({ kind: "preferences", changed });
    if (changed === "captions" || changed === "captionsModel") this._captions.preferencesChanged();
    if (changed === "sampling") this._call?.configure(this._preferences.sampling);
    try {
      await this._call?.applyPreferences(this._preferences, changed);
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      this.onEvent({ kind: "audio_failed", why: error.why });
    }
  }
}

new Page();
