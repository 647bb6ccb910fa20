/**
 * The metrics of a call over the last seconds, measured here or reported by the server.
 *
 * Updated by every event; read by the statistics panel and the troubleshooting panel. Null: not measured yet.
 */

import { decibels } from "../audio/envelope.js";
import { CLIPPED_SAMPLES } from "../diagnostics/condition.js";
import { RollingPercentiles } from "../percentiles.js";
import { FRAME_MS } from "../units.js";

const RECENT_FRAMES = 5000 / FRAME_MS;
const TEXT_FRAMES = 15_000 / FRAME_MS;
const LATENCIES = 250;
const HEARD_PEAK = 10 ** (-40 / 20);
const AUDIBLE_PEAK = 10 ** (-40 / 20);
const AUDIBLE_FRAMES = 5; // a gap is heard if the agent's voice was audible so shortly before

/** The last `size` values of a per-frame measurement. */
class RecentValues {
  constructor(size) {
    this._size = size;
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this._size) this.values.shift();
  }

  /** The maximum; null before the first value. */
  get max() {
    return this.values.length === 0 ? null : Math.max(...this.values);
  }

  /** The increase of a counter over the window. */
  get increase() {
    return this.values.length === 0 ? 0 : this.values.at(-1) - this.values[0];
  }

  /** The increase per second of a counter that is read every frame. */
  get increaseHz() {
    return this.values.length < 2 ? 0 : (1000 * this.increase) / ((this.values.length - 1) * FRAME_MS);
  }
}

export class Metrics {
  constructor() {
    this.trained = null;
    this._advice = null; // of the server, whose machine is too slow
    this._microphoneProblem = null; // why the last call could not open it
    this.clear();
  }

  /** Reset for a new call. */
  clear() {
    this.muted = false;
    this.sourceMuted = false;
    this.audio = null;
    this.stats = null;
    this.connection = null;
    this.played = null;
    this.speaking = false;
    this.micToSpeaker = new RollingPercentiles(LATENCIES);
    this.droppedUserFrames = 0;
    this.droppedAgentFrames = 0;
    this._tokens = 0;
    this._seenUnderruns = 0;
    this._audibleUnderruns = 0;
    this._wasHeard = false;
    this._zeroSinceMs = null;
    this._slowSinceMs = null;
    this._liveSinceMs = null;
    this._hasMicrophone = true;
    this._asking = false;
    this._resetRecent();
  }

  _resetRecent() {
    this._clipped = new RecentValues(RECENT_FRAMES);
    this._inputs = new RecentValues(RECENT_FRAMES);
    this._outputs = new RecentValues(RECENT_FRAMES);
    this._receivedFrames = new RecentValues(RECENT_FRAMES);
    this._underruns = new RecentValues(RECENT_FRAMES);
    this._textFrames = new RecentValues(TEXT_FRAMES);
    this._textTokens = new RecentValues(TEXT_FRAMES);
    this._capturedAtMs = new RecentValues(RECENT_FRAMES);
  }

  onEvent(event, nowMs) {
    switch (event.kind) {
      case "health":
        this._advice = event.health?.capacity?.advice ?? null;
        break;
      case "opening":
        this.clear();
        this._microphoneProblem = null;
        break;
      case "failed":
      case "audio_failed":
        if (event.why.startsWith("microphone")) this._microphoneProblem = event.why;
        break;
      case "microphone_opened":
      case "microphone_changed":
        this._microphoneProblem = null;
        break;
      case "asking":
        this._asking = event.asking;
        break;
      case "ready":
      case "resumed":
      case "continued":
        this._liveSinceMs = nowMs;
        this._slowSinceMs = null;
        this._resetRecent();
        break;
      case "captured":
        this._onCaptured(event, nowMs);
        break;
      case "played":
        this._onPlayed(event);
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
        if (this.modelMs !== null && this.modelMs > FRAME_MS) this._slowSinceMs ??= nowMs;
        else this._slowSinceMs = null;
        break;
      case "connection_stats":
        this.connection = event;
        break;
      case "audio_state":
        this.audio = { ...this.audio, ...event };
        this._hasMicrophone = this.audio.hasMicrophone ?? true;
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

  _onCaptured(event, nowMs) {
    const peak = Math.max(...event.peaks);
    this._inputs.add(peak);
    this._capturedAtMs.add(nowMs);
    if (peak > HEARD_PEAK) this._wasHeard = true;
    this._clipped.add(event.clipped >= CLIPPED_SAMPLES ? 1 : 0);
    if (peak === 0) this._zeroSinceMs ??= nowMs;
    else this._zeroSinceMs = null;
  }

  _onPlayed(event) {
    this.played = event;
    const peak = Math.max(...event.peaks);
    const isAudible = Math.max(peak, ...this._outputs.values.slice(-AUDIBLE_FRAMES)) > AUDIBLE_PEAK;
    if (isAudible) this._audibleUnderruns += Math.max(0, event.underruns - this._seenUnderruns);
    this._seenUnderruns = event.underruns;
    this._outputs.add(peak);
    this._receivedFrames.add(event.frames);
    this._underruns.add(this._audibleUnderruns);
    this._textFrames.add(event.frames);
    this._textTokens.add(this._tokens);
    for (const latencyMs of event.latenciesMs) this.micToSpeaker.add(latencyMs);
  }

  /** In this call so far, on either way. */
  get droppedFrames() {
    return this.droppedUserFrames + this.droppedAgentFrames;
  }

  /** Share of the agent's steps that produced no word; each new word arrives as a partial text. */
  get paddingShare() {
    const frames = this._textFrames.increase;
    return frames < 25 ? null : Math.max(0, 1 - this._textTokens.increase / frames);
  }

  get stepHz() {
    return this._receivedFrames.increaseHz;
  }

  /** Encode + step + decode time of one frame, as measured by the server. */
  get modelMs() {
    const { encodeMs, stepMs, decodeMs } = this.stats ?? {};
    return stepMs === undefined ? null : (encodeMs ?? 0) + stepMs + (decodeMs ?? 0);
  }

  /** The input of diagnose(). */
  diagnosticFacts(phase, { bargeIn }, nowMs = 0) {
    const since = (startMs) => (startMs === null ? 0 : nowMs - startMs);
    const clipped = this._clipped.values;
    const span = this._capturedAtMs.values;
    const upHz = span.length < 2 ? 0 : (1000 * (span.length - 1)) / (span.at(-1) - span[0]);
    return {
      phase,
      contextState: phase === "idle" ? null : (this.audio?.state ?? null),
      muted: this.muted,
      sourceMuted: this.sourceMuted,
      inputDb: this._inputs.max === null ? null : decibels(this._inputs.max),
      upHz,
      downHz: this.stepHz,
      paddingShare: this.paddingShare,
      modelMs: this.modelMs,
      advice: this._advice,
      autoGainControl: this.audio?.granted?.autoGainControl === true,
      outputDb: this._outputs.max === null ? null : decibels(this._outputs.max),
      microphoneProblem: this._microphoneProblem,
      hasMicrophone: this._hasMicrophone,
      asking: this._asking,
      wasHeard: this._wasHeard,
      liveMs: since(this._liveSinceMs),
      zeroMs: since(this._zeroSinceMs),
      slowMs: since(this._slowSinceMs),
      clippedShare: clipped.length === 0 ? 0 : clipped.reduce((sum, one) => sum + one, 0) / clipped.length,
      bargingIn: this.speaking && bargeIn !== "off",
      recentUnderruns: this._underruns.increase,
      trained: this.trained,
    };
  }
}
