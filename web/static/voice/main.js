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
import { serverUrl } from "./server-url.js";
import { exchangeToken } from "./token.js";
import { TranscriptLog } from "./transcript-log.js";
import { CallControl } from "./ui/call-control.js";
import { conditionOf } from "./ui/diagnostics.js";
import { DiagnosticsPanel } from "./ui/diagnostics-panel.js";
import { HelpDialog } from "./ui/help-dialog.js";
import { History } from "./ui/history.js";
import { Metrics } from "./ui/metrics.js";
import { Notices } from "./ui/notices.js";
import { PageTitle } from "./ui/page-title.js";
import { PersonaPanel } from "./ui/persona.js";
import { Recording } from "./ui/recording.js";
import { Report } from "./ui/report.js";
import { SettingsDialog } from "./ui/settings-dialog.js";
import { addShortcuts } from "./ui/shortcuts.js";
import { StatsPanel } from "./ui/stats-panel.js";
import { Suggestions } from "./ui/suggestions.js";
import { Transcript } from "./ui/transcript.js";
import { Waveforms } from "./ui/waveforms.js";
import { guardUnsaved } from "./unsaved.js";
import { SAMPLE_QUESTION, SampleEnd } from "./voice-sample.js";

const ECHO_TEST_MS = 5000;
const UNHEARD = new Set(["no_signal", "source_muted"]);

class Page {
  constructor() {
    this._preferences = loadPreferences(localStorage);
    this._phase = "idle";
    this._call = null;
    this._sampleEnd = null; // of the sample of a voice that is being played
    this._log = new TranscriptLog();
    this._metrics = new Metrics();
    // What every view that shows the state gets; see state.js.
    this._facts = { phase: "idle", health: undefined, stalled: false, muted: false, recording: false, position: null };
    this._captions = new WhisperCaptions(this._preferences, { onEvent: (event) => this.onEvent(event) });
    const help = new HelpDialog();
    this._views = this._createViews(help);
    const isHolding = () => this._phase === "live" && this._isPushToTalk && !this._facts.isSample;
    addShortcuts(this._preferences, { ...this._actions, help: () => help.open("keys"), isHolding });
    this._signIn();
  }

  get _actions() {
    return { toggle: () => this.toggle(), mute: () => this.mute(), hold: (held) => this.hold(held) };
  }

  _createViews(help) {
    const onChange = (name) => this._onPreferenceChange(name);
    const transcript = new Transcript(this._log);
    const recording = new Recording({ record: (on) => this._record(on) });
    const history = new History(this._log, this._preferences, { onChange });
    guardUnsaved(() => recording.isUnsaved || (transcript.isUnsaved && !history.isKept));
    return [
      new CallControl(this._preferences, { ...this._actions, openMicrophone: () => this._openMicrophone() }),
      new PageTitle(),
      new PersonaPanel(this._preferences, { onChange, listen: () => this._listenToVoice() }),
      new Suggestions({ ask: (question, url) => this._ask(question, url) }),
      new Waveforms(),
      transcript,
      new Notices({
        resume: () => this._call?.resume(),
        help: (topic) => help.open(topic),
        facts: () => this._metrics.diagnosticFacts(this._phase, this._preferences, performance.now()),
      }),
      new StatsPanel(this._metrics),
      new DiagnosticsPanel(this._metrics, this._preferences, { testAudio: () => this._testAudio() }),
      recording,
      history,
      new Report(this._metrics, this._preferences),
      new SettingsDialog(this._preferences, { onChange }),
      new BrowserCaptions(this._preferences, { onEvent: (event) => this.onEvent(event) }),
    ];
  }

  async _signIn() {
    const refusal = await exchangeToken();
    if (refusal !== null) this.onEvent({ kind: "token_refused", ...refusal });
    await watchHealth((health) => this.onEvent({ kind: "health", health }));
  }

  /** Every event passes through here, in order. */
  onEvent(event) {
    this._phase = nextPhase(this._phase, event);
    this._updateFacts(event);
    this._metrics.onEvent(event, performance.now());
    for (const view of this._views) view.onEvent(event, this._phase, this._facts);
    if (event.kind === "ready" && this._isPushToTalk && !this._facts.isSample) this._setMuted(true);
    if (event.kind === "played" && this._sampleEnd?.isOver(event.rms, performance.now())) {
      this.onEvent({ kind: "sample_over", wasHeard: this._sampleEnd.wasHeard });
      this._stop();
    }
  }

  _updateFacts(event) {
    const facts = { ...this._facts, phase: this._phase };
    if (event.kind === "health") facts.health = event.health;
    if (event.kind === "connection_stats") facts.isUnheard = this._isUnheard();
    if (event.kind === "stalled") facts.stalled = event.stalled;
    if (event.kind === "muted") facts.muted = event.muted;
    if (event.kind === "queued" || event.kind === "paused") facts.position = event.position;
    if (event.kind === "recorder") facts.recording = event.on;
    if (event.kind === "audio_state" && event.hasMicrophone !== undefined) facts.withoutMicrophone = !event.hasMicrophone;
    if (event.kind === "opening" || this._phase === "idle") {
      Object.assign(facts, { stalled: false, muted: false, withoutMicrophone: false, isUnheard: false });
      facts.isSample = event.kind === "opening" && event.isSample === true;
    }
    this._facts = facts;
  }

  /** Whether nothing but silence comes from the microphone, which should not be called listening. */
  _isUnheard() {
    const facts = this._metrics.diagnosticFacts(this._phase, this._preferences, performance.now());
    return Boolean(facts.microphoneProblem) || UNHEARD.has(conditionOf(facts));
  }

  get _isPushToTalk() {
    return this._preferences.talkMode === "push";
  }

  toggle() {
    if (this._phase === "idle") this._start({ echo: false });
    else if (this._phase !== "closing") this._stop();
  }

  mute() {
    if (this._phase === "live" && !this._isPushToTalk && !this._facts.isSample) this._setMuted(!this._facts.muted);
  }

  /** Push-to-talk: speak while a key or the button is held. */
  hold(held) {
    if (this._phase === "live" && this._isPushToTalk && held === this._facts.muted) this._setMuted(!held);
  }

  _setMuted(muted) {
    this._call?.mute(muted);
    this.onEvent({ kind: "muted", muted });
  }

  _record(on) {
    this._call?.record(on);
    this.onEvent({ kind: "recorder", on });
  }

  async _start({ echo, microphone = true, isSample = false }) {
    this.onEvent({ kind: "opening", echo, isSample });
    const url = serverUrl("ws").replace(/^http/, "ws");
    try {
      this._call = await Call.open({
        url,
        preferences: isSample ? { ...this._preferences, role: "" } : this._preferences,
        echo,
        microphone,
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
    this._question = null;
    this._sampleEnd = null;
  }

  _stop() {
    this._sampleEnd = null;
    this.onEvent({ kind: "closing" });
    this._call?.close();
  }

  /** Ask the model a recorded question; without a call, in one that needs no microphone. */
  async _ask(question, url) {
    if (this._phase === "idle") {
      this._start({ echo: false, microphone: false });
      this._question = { question, url };
      await this._untilLive();
      if (this._question?.url !== url) return;
    }
    if (this._phase !== "live" || this._facts.isSample) return;
    this._question = null;
    if (!this._captions.isActive) this.onEvent({ kind: "user_text", text: question, final: true });
    await this._play(url);
  }

  /** Let the agent answer a question with the chosen voice; pressed again, stop that. */
  async _listenToVoice() {
    if (this._facts.isSample) {
      if (this._phase !== "closing") this._stop();
      return;
    }
    if (this._phase !== "idle") return;
    this._start({ echo: false, microphone: false, isSample: true });
    await this._untilLive();
    const { _call: call } = this;
    if (this._phase !== "live" || !this._facts.isSample) return;
    await this._play(SAMPLE_QUESTION);
    if (call === this._call && this._phase === "live") this._sampleEnd = new SampleEnd(performance.now());
  }

  /** Play a recorded question into the call. */
  async _play(url) {
    this.onEvent({ kind: "asking", asking: true });
    try {
      await this._call.ask(url);
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      this.onEvent({ kind: "audio_failed", why: error.why });
    } finally {
      this.onEvent({ kind: "asking", asking: false });
    }
  }

  /** Resolves when the call is live, or is over. */
  async _untilLive() {
    while (this._phase !== "live" && this._phase !== "idle") {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async _openMicrophone() {
    try {
      await this._call?.openMicrophone(this._preferences);
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      this.onEvent({ kind: "audio_failed", why: error.why });
    }
  }

  async _testAudio() {
    if (this._phase !== "idle") return;
    const run = this._start({ echo: true });
    setTimeout(() => this._call?.close(), ECHO_TEST_MS);
    await run;
  }

  async _onPreferenceChange(changed) {
    savePreferences(localStorage, this._preferences);
    if (changed === "talkMode" && this._phase === "live") this._setMuted(this._isPushToTalk);
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
