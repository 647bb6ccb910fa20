/**
 * Entry point of the voice page: one call at a time, every event to every view, every user action to the call.
 *
 * The first screen is loaded first; then, when it is drawn, what a call needs. Panels and dialogs are loaded when they
 * are opened, some with their elements, and the notices when there is something to say.
 * Neighbours: views in ui/ decide how things look; call.js and below do the work.
 */

import { AudioError } from "./audio/audio-error.js";
import { conditionOf } from "./diagnostics/condition.js";
import { EventLog } from "./diagnostics/event-log.js";
import { HOLDING, initialFacts, nextFacts } from "./facts.js";
import { watchHealth } from "./health.js";
import { Listener } from "./listener.js";
import { OnDemand } from "./on-demand.js";
import { loadPreferences, savePreferences } from "./preferences.js";
import { asQuestion } from "./questions.js";
import { serverUrl } from "./server-url.js";
import { AgentLevel, describeState } from "./state.js";
import { exchangeToken } from "./token.js";
import { TranscriptLog } from "./transcript-log.js";
import { CallControl } from "./ui/call-control.js";
import { HelpDialog } from "./ui/help-dialog.js";
import { Metrics } from "./ui/metrics.js";
import { PageTitle } from "./ui/page-title.js";
import { Panels } from "./ui/panels.js";
import { addShortcuts } from "./ui/shortcuts.js";
import { Suggestions } from "./ui/suggestions.js";
import { Transcript } from "./ui/transcript.js";
import { guardUnsaved } from "./unsaved.js";
import { SAMPLE_QUESTION, SampleEnd } from "./voice-sample.js";

const ECHO_TEST_MS = 5000;
const DRAWN_MS = 200; // no event says that the first screen is on the display
const UNHEARD = new Set(["no_signal", "source_muted"]);

class Page extends Listener {
  constructor() {
    super();
    this._preferences = loadPreferences(localStorage);
    this._askHealth = null; // once it is watched
    this._call = null;
    this._attempt = null; // identifies the latest start
    this._agentLevel = new AgentLevel();
    this._sampleEnd = null; // of the sample of a voice that is being played
    this._log = new TranscriptLog();
    this._metrics = new Metrics();
    this._facts = initialFacts({ pushToTalk: this._isPushToTalk });
    this._captions = null; // until they are loaded
    this._latest = new Map(); // the latest event of each kind, for views that are loaded later
    this._eventLog = new EventLog();
    const help = new HelpDialog();
    this._views = this._createViews();
    const onFailure = (error) => this._onNotLoaded(error);
    this._panels = this._createPanels(help, onFailure);
    this._views.push(this._eventLog, this._panels);
    this._callPart = new OnDemand(() => this._loadCallPart(), onFailure);
    document.getElementById("stats").addEventListener("toggle", () => this._callPart.get()); // fills it, if nothing has yet
    const isHolding = () => this._phase === "live" && this._isPushToTalk && !this._facts.isSample;
    addShortcuts(this._preferences, { ...this._actions, help: () => help.open("keys"), isHolding });
    this._showState();
    this._signIn();
  }

  get _phase() {
    return this._facts.phase;
  }

  get _actions() {
    return { toggle: () => this.toggle(), mute: () => this.mute(), hold: (held) => this.hold(held) };
  }

  /** The views of the first screen. */
  _createViews() {
    this._transcript = new Transcript(this._log, { keep: () => this._panels.keep() });
    const isTalking = () => HOLDING.has(this._phase) && !this._facts.isSample;
    guardUnsaved(() => this._isUnsaved, { isTalking });
    return [
      new CallControl({
        ...this._actions,
        openMicrophone: () => this._openMicrophone(),
        tryNow: () => this._call?.tryNow(),
      }),
      new PageTitle(),
      new Suggestions({ ask: (question, url) => this._ask(question, url) }),
      this._transcript,
    ];
  }

  /** The views that are loaded when they are needed. */
  _createPanels(help, onFailure) {
    const page = {
      log: this._log,
      metrics: this._metrics,
      preferences: this._preferences,
      events: this._eventLog,
      onChange: (name) => this._onPreferenceChange(name),
      onEvent: (event) => this.onEvent(event),
      listen: () => this._listenToVoice(),
      record: (on) => this._record(on),
      testAudio: () => this._testAudio(),
      resume: () => this._call?.resume(),
      help: (topic) => help.open(topic),
      facts: () => this._metrics.diagnosticFacts(this._phase, this._preferences, performance.now()),
    };
    return new Panels(page, { add: (view) => this._addView(view), onFailure, onLoaded: () => this._onLoaded() });
  }

  get _isUnsaved() {
    return this._panels.isRecordingUnsaved || (this._transcript.isUnsaved && !this._panels.isKept);
  }

  /** A view that was loaded later learns what the others know. */
  _addView(view) {
    this._latest.forEach((event) => view.onEvent(event, this._phase, this._facts));
    this._views.push(view);
  }

  /** What a call needs, and what shows it. → `Call` */
  async _loadCallPart() {
    const [{ Call }, { Captions }, { Prefetch }, { StatsPanel }, { Waveforms }] = await Promise.all([
      import("./call.js"),
      import("./captions/captions.js"),
      import("./prefetch.js"),
      import("./ui/stats-panel.js"),
      import("./ui/waveforms.js"),
    ]);
    this._captions = new Captions(this._preferences, { onEvent: (event) => this.onEvent(event) });
    const prefetch = new Prefetch();
    for (const view of [new Waveforms(), new StatsPanel(this._metrics), prefetch]) this._addView(view);
    this._onLoaded();
    whenDrawn(() => prefetch.start());
    return Call;
  }

  _onLoaded() {
    this.onEvent({ kind: "loaded" });
  }

  _onNotLoaded(error) {
    console.warn(error);
    this.onEvent({ kind: "not_loaded" });
  }

  async _signIn() {
    const refusal = await exchangeToken();
    if (refusal !== null) this.onEvent({ kind: "token_refused", ...refusal });
    this._askHealth = watchHealth((health) => {
      this.onEvent({ kind: "health", health });
      if (health !== null && this._callPart.loaded === null) whenDrawn(() => this._callPart.get());
    });
  }

  /** Every event passes through here, in order; 25 of them a second are audio. */
  onEvent(event) {
    if (event.kind === "connection_stats") this._lookAtCall();
    const before = this._facts;
    const facts = (this._facts = nextFacts(before, event));
    this._metrics.onEvent(event, performance.now());
    this._views.forEach((view) => view.onEvent(event, facts.phase, facts));
    if (facts !== before) this._showState(event);
    this._latest.delete(event.kind); // the order is that of the latest ones
    this._latest.set(event.kind, event);
    super.onEvent(event);
  }

  on_opening() {
    this._agentLevel.clear();
  }

  on_ready() {
    if (this._isPushToTalk && !this._facts.isSample) this._setMuted(true);
  }

  on_ended() {
    this._askHealth?.(); // a place is free again
  }

  on_played({ rms }) {
    if (this._agentLevel.changes(rms)) this.onEvent({ kind: "answering", answering: this._agentLevel.isAnswering });
    if (!this._sampleEnd?.isOver(rms, performance.now())) return;
    this.onEvent({ kind: "sample_over", wasHeard: this._sampleEnd.wasHeard });
    this._stop();
  }

  /** What is known about the call and the server has changed. */
  _showState(event) {
    const state = describeState(this._facts);
    this._views.forEach((view) => view.onState?.(state, this._facts, event));
  }

  /**
   * What is wrong with the call, if anything; and whether nothing but silence comes from the microphone, which should
   * not be called listening.
   */
  _lookAtCall() {
    const facts = this._metrics.callFacts(this._phase, performance.now());
    const condition = conditionOf(facts);
    const isUnheard = Boolean(facts.microphoneProblem) || UNHEARD.has(condition);
    if (condition === this._facts.condition && isUnheard === this._facts.isUnheard) return;
    this.onEvent({ kind: "condition", condition, isUnheard });
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
    const attempt = (this._attempt = {});
    const isWanted = () => attempt === this._attempt;
    this.onEvent({ kind: "opening", echo, isSample, microphone });
    const url = serverUrl("ws").replace(/^http/, "ws");
    const Call = await this._callPart.get();
    if (!isWanted()) return;
    if (Call === null) {
      this.onEvent({ kind: "failed", why: "not_loaded" });
      return;
    }
    let call;
    try {
      call = await Call.open({
        url,
        preferences: isSample ? { ...this._preferences, role: "" } : this._preferences,
        echo,
        microphone,
        captions: this._captions,
        isWanted,
        onEvent: (event) => isWanted() && this.onEvent(event),
      });
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      if (isWanted()) this.onEvent({ kind: "failed", why: error.why });
      return;
    }
    if (call === null) return;
    this._call = call;
    await call.ended;
    this._call = null;
    this._question = null;
    this._sampleEnd = null;
  }

  _stop() {
    this._sampleEnd = null;
    if (this._call === null) {
      this._attempt = null; // still loading, or the browser asks for the microphone: whatever comes of it is not wanted
      this.onEvent({ kind: "ended", why: "stopped" });
      return;
    }
    this.onEvent({ kind: "closing" });
    this._call.close();
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
    if (!this._captions?.isActive) this.onEvent({ kind: "user_text", text: asQuestion(question), final: true });
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
    const attempt = this._attempt;
    setTimeout(() => attempt === this._attempt && this._call?.close(), ECHO_TEST_MS);
    await run;
  }

  async _onCaptionsChange() {
    await this._callPart.get();
    this._captions?.preferencesChanged();
  }

  async _onPreferenceChange(changed) {
    savePreferences(localStorage, this._preferences);
    this.onEvent({ kind: "preferences", changed, pushToTalk: this._isPushToTalk });
    if (changed === "talkMode" && this._phase === "live") this._setMuted(this._isPushToTalk);
    if (changed === "captions" || changed === "captionsModel") this._onCaptionsChange();
    if (changed === "sampling") this._call?.configure(this._preferences.sampling);
    try {
      await this._call?.applyPreferences(this._preferences, changed);
    } catch (error) {
      if (!(error instanceof AudioError)) throw error;
      this.onEvent({ kind: "audio_failed", why: error.why });
    }
  }
}

/** When the page is loaded and drawn. */
async function whenDrawn(run) {
  if (document.readyState !== "complete") await new Promise((resolve) => addEventListener("load", resolve, { once: true }));
  setTimeout(run, DRAWN_MS);
}

new Page();
