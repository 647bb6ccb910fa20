/**
 * The metrics of a call over the last seconds, measured here or reported by the server.
 *
 * Updated by every event; read by the statistics panel and the troubleshooting panel. Null: not measured yet.
 */

import { decibels } from "../audio/envelope.js";
import { CLIPPED_SAMPLES } from "../diagnostics/condition.js";
import { Listener } from "../listener.js";
import { RollingPercentiles } from "../percentiles.js";
import { FRAME_MS, FRAME_RATE_HZ } from "../units.js";

const RECENT_FRAMES = Math.floor(5000 / FRAME_MS);
const TEXT_FRAMES = Math.floor(15_000 / FRAME_MS);
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

  /** The increase of a counter over the last `count` values. */
  increase(count = this._size) {
    const recent = this.values.slice(-count);
    return recent.length === 0 ? 0 : recent.at(-1) - recent[0];
  }

  /** The same, for each of them. */
  slope(count = this._size) {
    const steps = Math.min(count, this.values.length) - 1;
    return steps < 1 ? 0 : this.increase(count) / steps;
  }
}

/** Its events come with the time of their arrival. */
export class Metrics extends Listener {
  constructor() {
    super();
    this.model = null; // of the last call
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
    this._clippedFrames = 0;
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
    this._inputs = new RecentValues(RECENT_FRAMES);
    this._clipped = new RecentValues(RECENT_FRAMES); // frames, so far
    this._capturedAtMs = new RecentValues(RECENT_FRAMES);
    this._outputs = new RecentValues(RECENT_FRAMES);
    this._underruns = new RecentValues(RECENT_FRAMES);
    this._frames = new RecentValues(TEXT_FRAMES);
    this._textTokens = new RecentValues(TEXT_FRAMES);
  }

  on_health({ health }) {
    this._advice = health?.capacity?.advice ?? null;
  }

  on_opening() {
    this.clear();
    this._microphoneProblem = null;
  }

  on_failed({ why }) {
    if (why.startsWith("microphone")) this._microphoneProblem = why;
  }

  on_audio_failed(event) {
    this.on_failed(event);
  }

  on_microphone_opened() {
    this._microphoneProblem = null;
  }

  on_microphone_changed() {
    this._microphoneProblem = null;
  }

  on_asking({ asking }) {
    this._asking = asking;
  }

  on_ready(_event, nowMs) {
    this._liveSinceMs = nowMs;
    this._slowSinceMs = null;
    this._resetRecent();
  }

  on_resumed(event, nowMs) {
    this.on_ready(event, nowMs);
  }

  on_continued(event, nowMs) {
    this.on_ready(event, nowMs);
  }

  on_captured({ peaks, clipped }, nowMs) {
    const peak = Math.max(...peaks);
    this._inputs.add(peak);
    this._capturedAtMs.add(nowMs);
    if (peak > HEARD_PEAK) this._wasHeard = true;
    if (clipped >= CLIPPED_SAMPLES) this._clippedFrames += 1;
    this._clipped.add(this._clippedFrames);
    if (peak === 0) this._zeroSinceMs ??= nowMs;
    else this._zeroSinceMs = null;
  }

  on_played(event) {
    this.played = event;
    const peak = Math.max(...event.peaks);
    const isAudible = Math.max(peak, ...this._outputs.values.slice(-AUDIBLE_FRAMES)) > AUDIBLE_PEAK;
    if (isAudible) this._audibleUnderruns += Math.max(0, event.underruns - this._seenUnderruns);
    this._seenUnderruns = event.underruns;
    this._outputs.add(peak);
    this._underruns.add(this._audibleUnderruns);
    this._frames.add(event.frames);
    this._textTokens.add(this._tokens);
    event.latenciesMs.forEach((latencyMs) => this.micToSpeaker.add(latencyMs));
  }

  on_text({ final }) {
    if (!final) this._tokens += 1;
  }

  on_dropped({ what, count }) {
    if (what === "audio") this.droppedUserFrames += count;
    else this.droppedAgentFrames += count;
  }

  on_connection_established({ model }) {
    this.model = model;
  }

  on_stats(event, nowMs) {
    this.stats = event;
    if (this.modelMs !== null && this.modelMs > FRAME_MS) this._slowSinceMs ??= nowMs;
    else this._slowSinceMs = null;
  }

  on_connection_stats(event) {
    this.connection = event;
  }

  on_audio_state(event) {
    this.audio = { ...this.audio, ...event };
    this._hasMicrophone = this.audio.hasMicrophone ?? true;
  }

  on_muted({ muted }) {
    this.muted = muted;
  }

  on_source_muted({ muted }) {
    this.sourceMuted = muted;
  }

  on_speaking({ speaking }) {
    this.speaking = speaking;
  }

  /** The metric at a path such as `stats.stepMs`; null if it was not measured. */
  at(path) {
    return path.split(".").reduce((part, name) => part?.[name] ?? null, this);
  }

  get latency() {
    return this.micToSpeaker.summary();
  }

  /** Frames of the user that were dropped, here or by the server; null before there was a connection. */
  get unsentFrames() {
    return this.connection && this.connection.droppedFrames + this.droppedUserFrames;
  }

  /** Frames of the agent that were dropped; null before there was a connection. */
  get lostFrames() {
    return this.connection && this.droppedAgentFrames;
  }

  /** In this call so far, on either way. */
  get droppedFrames() {
    return this.droppedUserFrames + this.droppedAgentFrames;
  }

  /** Share of the agent's steps that produced no word; each new word arrives as a partial text. */
  get paddingShare() {
    const frames = this._frames.increase();
    return frames < 25 ? null : Math.max(0, 1 - this._textTokens.increase() / frames);
  }

  get stepHz() {
    return this._frames.slope(RECENT_FRAMES) * FRAME_RATE_HZ;
  }

  /** Encode + step + decode time of one frame, as measured by the server. */
  get modelMs() {
    const { encodeMs, stepMs, decodeMs } = this.stats ?? {};
    return stepMs === undefined ? null : (encodeMs ?? 0) + stepMs + (decodeMs ?? 0);
  }

  /** The input of conditionOf(). */
  callFacts(phase, nowMs) {
    const since = (startMs) => (startMs === null ? 0 : nowMs - startMs);
    return {
      phase,
      contextState: phase === "idle" ? null : (this.audio?.state ?? null),
      muted: this.muted,
      sourceMuted: this.sourceMuted,
      inputDb: decibelsOf(this._inputs.max),
      upHz: 1000 / (this._capturedAtMs.slope() || Infinity),
      microphoneProblem: this._microphoneProblem,
      hasMicrophone: this._hasMicrophone,
      asking: this._asking,
      wasHeard: this._wasHeard,
      liveMs: since(this._liveSinceMs),
      zeroMs: since(this._zeroSinceMs),
      slowMs: since(this._slowSinceMs),
      clippedShare: this._clipped.slope(),
      recentUnderruns: this._underruns.increase(),
    };
  }

  /** The input of diagnose(). */
  diagnosticFacts(phase, { bargeIn }, nowMs = 0) {
    return {
      ...this.callFacts(phase, nowMs),
      downHz: this.stepHz,
      paddingShare: this.paddingShare,
      modelMs: this.modelMs,
      advice: this._advice,
      autoGainControl: this.audio?.granted?.autoGainControl === true,
      outputDb: decibelsOf(this._outputs.max),
      bargingIn: this.speaking && bargeIn !== "off",
      trained: this.model?.trained ?? null,
    };
  }
}

const decibelsOf = (peak) => (peak === null ? null : decibels(peak));
