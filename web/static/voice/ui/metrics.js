/**
 * What the page knows of the conversation, as numbers over the last seconds: measured here or told by the server.
 *
 * Fed with every event; read by the status panel and by "Why is it silent?". Null: not measured yet.
 */

import { decibels } from "../audio/envelope.js";
import { Window } from "../percentiles.js";
import { FRAME_MS } from "../units.js";

const LATELY_FRAMES = 5000 / FRAME_MS;
const WORDS_FRAMES = 15_000 / FRAME_MS;
const LATENCIES = 250;

/** The last `size` values of something that comes with each frame. */
class Lately {
  constructor(size) {
    this._size = size;
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this._size) this.values.shift();
  }

  /** The largest; null before the first. */
  get most() {
    return this.values.length === 0 ? null : Math.max(...this.values);
  }

  /** How far a counter came. */
  get rise() {
    return this.values.length === 0 ? 0 : this.values.at(-1) - this.values[0];
  }

  /** How many a second, of a counter that is read every frame. */
  get riseHz() {
    return this.values.length < 2 ? 0 : (1000 * this.rise) / ((this.values.length - 1) * FRAME_MS);
  }
}

export class Figures {
  constructor() {
    this.trained = null;
    this.clear();
  }

  /** A new call starts from nothing. */
  clear() {
    this.muted = false;
    this.sourceMuted = false;
    this.sound = null;
    this.stats = null;
    this.wire = null;
    this.played = null;
    this.speaking = false;
    this.micToSpeaker = new Window(LATENCIES);
    this.droppedUserFrames = 0;
    this.droppedAgentFrames = 0;
    this._tokens = 0;
    this._restart();
  }

  _restart() {
    this._inputs = new Lately(LATELY_FRAMES);
    this._outputs = new Lately(LATELY_FRAMES);
    this._arrived = new Lately(LATELY_FRAMES);
    this._underruns = new Lately(LATELY_FRAMES);
    this._wordFrames = new Lately(WORDS_FRAMES);
    this._wordTokens = new Lately(WORDS_FRAMES);
    this._heardAtMs = new Lately(LATELY_FRAMES);
  }

  heed(event, nowMs) {
    switch (event.kind) {
      case "opening":
        this.clear();
        break;
      case "ready":
      case "resumed":
        this._restart();
        break;
      case "heard":
        this._inputs.add(Math.max(...event.peaks));
        this._heardAtMs.add(nowMs);
        break;
      case "played":
        this._play(event);
        break;
      case "text":
        if (!event.final) this._tokens += 1;
        break;
      case "dropped":
        if (event.what === "audio") this.droppedUserFrames += event.count;
        else this.droppedAgentFrames += event.count;
        break;
      case "connection_established":
        this.trained = event.model.trained;
        break;
      case "stats":
        this.stats = event;
        break;
      case "wire":
        this.wire = event;
        break;
      case "sound":
        this.sound = { ...this.sound, ...event };
        break;
      case "muted":
        this.muted = event.muted;
        break;
      case "source_muted":
        this.sourceMuted = event.muted;
        break;
      case "speaking":
        this.speaking = event.speaking;
        break;
      default:
    }
  }

  _play(event) {
    this.played = event;
    this._outputs.add(Math.max(...event.peaks));
    this._arrived.add(event.frames);
    this._underruns.add(event.underruns);
    this._wordFrames.add(event.frames);
    this._wordTokens.add(this._tokens);
    for (const latencyMs of event.latenciesMs) this.micToSpeaker.add(latencyMs);
  }

  /** Share of the agent's steps without a word; each new word comes as a partial text. */
  get paddingShare() {
    const frames = this._wordFrames.rise;
    return frames < 25 ? null : Math.max(0, 1 - this._wordTokens.rise / frames);
  }

  get stepHz() {
    return this._arrived.riseHz;
  }

  /** Encode + step + decode of one frame, as the server measures them. */
  get modelMs() {
    const { encodeMs, stepMs, decodeMs } = this.stats ?? {};
    return stepMs === undefined ? null : (encodeMs ?? 0) + stepMs + (decodeMs ?? 0);
  }

  /** What diagnose() asks for. */
  facts(phase, { barge }) {
    const span = this._heardAtMs.values;
    const upHz = span.length < 2 ? 0 : (1000 * (span.length - 1)) / (span.at(-1) - span[0]);
    return {
      phase,
      contextState: phase === "idle" ? null : (this.sound?.state ?? null),
      muted: this.muted,
      sourceMuted: this.sourceMuted,
      inputDb: this._inputs.most === null ? null : decibels(this._inputs.most),
      upHz,
      downHz: this.stepHz,
      paddingShare: this.paddingShare,
      modelMs: this.modelMs,
      outputDb: this._outputs.most === null ? null : decibels(this._outputs.most),
      barging: this.speaking && barge !== "off",
      underrunsLately: this._underruns.rise,
      trained: this.trained,
    };
  }
}
