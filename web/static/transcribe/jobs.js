/**
 * One piece of work at a time: a model is loaded, a file transcribed or the microphone heard, to its end or not.
 *
 * What happens is told to `heed` as objects with a `kind` (phase.js has those that change the phase); what
 * still comes of a piece that was given up is passed over. What does not belong here: how anything looks.
 */

import { SoundError } from "../voice/audio/microphone.js";
import { readOptions } from "../asr/options.js";
import { Transcriber } from "../asr/transcriber.js";
import { Trouble } from "../asr/errors.js";
import { needed, vendored } from "../asr/model/vendored.js";
import { RATE_HZ, SoundFileError, decode } from "./data/decoding.js";
import { Listening } from "./microphone.js";
import { nextPhase } from "./phase.js";

const EXPECTED = [Trouble, SoundError, SoundFileError];

export class Work {
  /**
   * `wish()` is what to load, `options()` what to transcribe with (null: not as they are). `tape` keeps the
   * sound: clear(), load(blob), hear(samples), loadHeard(), durationS.
   */
  constructor({ wish, options, tape, heed }) {
    this._wish = wish;
    this._options = options;
    this._tape = tape;
    this._heed = heed;
    this._turn = 0; // which piece it is
    this._running = Promise.resolve(); // the engine's work, given up or not
    this._transcriber = null;
    this._listening = null;
    this._stream = null;
    this.phase = "idle";
    this.result = { segments: [], info: null };
  }

  /** Let go of the model that is loaded; whether another one can be. */
  renew() {
    this._transcriber?.close();
    const transcriber = new Transcriber({
      onEvent: (event) => {
        if (transcriber === this._transcriber) this._hear(event);
      },
    });
    this._transcriber = transcriber;
    this._tell({ kind: "unloaded" });
    try {
      needed(vendored());
      return true;
    } catch (error) {
      this._fail(this._turn, "load_failed", error);
      return false;
    }
  }

  /** What loading `wish` would bring. Throws Trouble. */
  plan(wish) {
    return this._transcriber.plan(wish);
  }

  /** Whether a model is loaded, if need be now. */
  async ready() {
    if (this.phase !== "idle") return this.phase === "ready";
    const turn = this._begin();
    this._tell({ kind: "loading" });
    try {
      const loaded = await this._transcriber.load(this._wish());
      if (turn !== this._turn) return false;
      this._tell({ ...loaded, kind: "loaded" });
      return true;
    } catch (error) {
      this._fail(turn, "load_failed", error);
      return false;
    }
  }

  async transcribe(file) {
    const options = this._options();
    if (options === null || !(await this.ready())) return;
    const turn = this._begin();
    this._tell({ kind: "decoding", name: file.name });
    try {
      const samples = await decode(file);
      await this._running;
      if (turn !== this._turn) return;
      this._clear();
      this._tell({ kind: "transcribing", name: file.name, durationS: samples.length / RATE_HZ });
      this._tape.load(file, samples);
      const running = this._transcriber.transcribe(samples, options);
      this._running = running.catch(() => {});
      const { info } = await running;
      this._done(turn, info, { live: false });
    } catch (error) {
      this._fail(turn, "failed", error);
    }
  }

  async listen() {
    const options = this._options();
    if (options === null || !(await this.ready())) return;
    const turn = this._begin();
    this._tell({ kind: "opening" });
    try {
      const listening = await Listening.open({
        push: (samples) => this._push(samples),
        level: ({ rms }) => this._tell({ kind: "heard", rms, seconds: this._tape.durationS }),
        lost: (why) => this._lose(why),
      });
      await this._running;
      if (turn !== this._turn) {
        await listening.close(); // given up while the browser was still asking
        return;
      }
      this._listening = listening;
      this._clear();
      this._tell({ kind: "listening" });
      this._stream = this._transcriber.stream(options);
      const { vad_parameters: vad_options, ...transcription_options } = readOptions(options, { streaming: true });
      const language = { language: null, language_probability: null, all_language_probs: null };
      this._known = { ...language, duration_after_vad: 0, transcription_options, vad_options };
    } catch (error) {
      this._fail(turn, "failed", error);
      await this._deafen();
    }
  }

  /** No more of the microphone: what it heard is understood to its end. */
  async finish() {
    const { _turn: turn, _stream: stream } = this;
    this._tell({ kind: "finishing" });
    await this._deafen();
    try {
      await stream.flush();
      stream.stop();
      this._done(turn, { ...this._known, duration: this._tape.durationS }, { live: true });
    } catch (error) {
      this._fail(turn, "failed", error);
    }
  }

  /** Give up what is under way; what came of it stays. */
  async cancel() {
    if (this.phase === "loading") this._transcriber.close();
    this._giveUp();
    this._tell({ kind: "cancelled" });
    await this._deafen();
  }

  /** What the engine tells. */
  _hear({ type, ...event }) {
    switch (type) {
      case "segment":
      case "final":
        this.result.segments.push(event.segment);
        this._tell({ kind: "segment", segment: event.segment });
        return;
      case "utterance":
        this._understand(event);
        return;
      case "error":
        this._fail(this._turn, "failed", event.error);
        this._deafen();
        return;
      default:
        this._tell({ kind: type, ...event });
    }
  }

  /** An utterance is over: what was guessed of it is replaced by what stands. */
  _understand({ start, end, language, language_probability, all_language_probs }) {
    this._known.duration_after_vad += end - start;
    if (this._known.language === null) {
      Object.assign(this._known, { language, language_probability, all_language_probs });
    }
    this._tell({ kind: "partial", text: "", stable: "" });
  }

  _push(samples) {
    this._stream?.push(samples);
    this._tape.hear(samples);
  }

  /** The microphone went away by itself. */
  async _lose(why) {
    this._giveUp();
    this._tell({ kind: "failed", why });
    await this._deafen();
  }

  _begin() {
    this._turn += 1;
    return this._turn;
  }

  _giveUp() {
    this._begin();
    this._stream?.stop();
    this._stream = null;
    this._transcriber.cancel();
  }

  _clear() {
    this.result.segments.length = 0;
    this.result.info = null;
    this._tape.clear();
  }

  _done(turn, info, { live }) {
    if (turn !== this._turn) return;
    this.result.info = info;
    this._stream = null;
    const words = this.result.segments.reduce((sum, segment) => sum + (segment.words?.length ?? 0), 0);
    this._tell({ kind: "done", info, words, live });
  }

  _fail(turn, kind, error) {
    if (turn !== this._turn) return;
    if (!EXPECTED.some((type) => error instanceof type)) console.error(error);
    this._stream = null;
    const message = error instanceof Trouble ? error.message : "";
    this._tell({ kind, why: error.code ?? error.why ?? "crashed", message });
  }

  /** Let go of the microphone; what it heard can be played. */
  async _deafen() {
    const listening = this._listening;
    if (listening === null) return;
    this._listening = null;
    await listening.close();
    this._tape.loadHeard();
  }

  _tell(event) {
    this.phase = nextPhase(this.phase, event.kind);
    this._heed(event);
  }
}
