/**
 * The page joins its parts here: one call at a time, every event to every view, every wish to the call.
 *
 * What does not belong here: how anything looks (views), how anything travels (call.js and below).
 */

import { Call } from "./call.js";
import { Captions } from "./captions/captions.js";
import { Diagnosis } from "./ui/diagnosis.js";
import { Figures } from "./ui/metrics.js";
import { watchHealth } from "./health.js";
import { SoundError } from "./audio/microphone.js";
import { Notices } from "./ui/notices.js";
import { nextPhase } from "./phase.js";
import { keepPreferences, loadPreferences } from "./preferences.js";
import { Recording } from "./ui/recording.js";
import { Settings } from "./ui/settings.js";
import { listenForShortcuts } from "./ui/shortcuts.js";
import { Stage } from "./ui/call-control.js";
import { Status } from "./ui/status.js";
import { Suggestions } from "./ui/suggestions.js";
import { exchangeToken } from "./token.js";
import { Transcript } from "./ui/transcript.js";
import { Voices } from "./ui/waveforms.js";
import { Words } from "./captions/words.js";

const ECHO_TEST_MS = 5000;

class Page {
  constructor() {
    this._preferences = loadPreferences(localStorage);
    this._phase = "idle";
    this._call = null;
    this._muted = false;
    this._figures = new Figures();
    this._words = new Words(this._preferences, { heed: (event) => this.heed(event) });
    this._views = [
      new Stage({
        toggle: () => this.toggle(),
        mute: () => this.mute(),
        resume: () => this._call?.resume(),
      }),
      new Suggestions(),
      new Voices(),
      new Transcript(),
      new Notices({ resume: () => this._call?.resume() }),
      new Status(this._figures),
      new Diagnosis(this._figures, this._preferences, { echo: () => this._testEcho() }),
      new Recording({ record: (recording) => this._call?.record(recording) }),
      new Settings(this._preferences, { changed: (name) => this._adopt(name) }),
      new Captions(this._preferences, { heed: (event) => this.heed(event) }),
    ];
    listenForShortcuts(this._preferences, { toggle: () => this.toggle(), mute: () => this.mute() });
    exchangeToken().finally(() => watchHealth((health) => this.heed({ kind: "health", health })));
  }

  /** Everything that happens comes through here, in order. */
  heed(event) {
    this._phase = nextPhase(this._phase, event);
    this._figures.heed(event, performance.now());
    for (const view of this._views) view.heed(event, this._phase);
  }

  toggle() {
    if (this._phase === "idle") this._start({ echo: false });
    else this._stop();
  }

  mute() {
    if (this._call === null) return;
    this._muted = !this._muted;
    this._call.mute(this._muted);
    this.heed({ kind: "muted", muted: this._muted });
  }

  async _start({ echo }) {
    this.heed({ kind: "opening", echo });
    this._muted = false;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const url = `${scheme}//${location.host}/ws`;
    try {
      this._call = await Call.open({
        url,
        preferences: this._preferences,
        echo,
        words: this._words,
        heed: (event) => this.heed(event),
      });
    } catch (error) {
      if (!(error instanceof SoundError)) throw error;
      this.heed({ kind: "failed", why: error.why });
      return;
    }
    if (this._phase === "closing") this._call.close(); // stopped while the browser was still asking
    await this._call.ended;
    this._call = null;
  }

  _stop() {
    this.heed({ kind: "closing" });
    this._call?.close();
  }

  async _testEcho() {
    if (this._phase !== "idle") return;
    const run = this._start({ echo: true });
    setTimeout(() => this._call?.close(), ECHO_TEST_MS);
    await run;
  }

  async _adopt(changed) {
    keepPreferences(localStorage, this._preferences);
    this.heed({ kind: "preferences", changed });
    if (changed === "words" || changed === "wordsModel") this._words.adopt();
    if (changed === "sampling") this._call?.configure(this._preferences.sampling);
    try {
      await this._call?.adopt(this._preferences, changed);
    } catch (error) {
      if (!(error instanceof SoundError)) throw error;
      this.heed({ kind: "sound_lost", why: error.why });
    }
  }
}

new Page();
