/**
 * Waveforms and level meters of the user and the agent, the newest audio on the right, one bar per 20 ms.
 *
 * Drawn at most once per screen refresh, and only when there is new audio.
 */

import { PEAKS_PER_FRAME, decibels } from "../audio/envelope.js";
import { colour, clearedContext } from "./palette.js";

const PEAKS_PER_BAR = 4;
const BAR_PX = 3;
const GAP_PX = 2;
const HISTORY_BARS = 600;
const LOUDEST_SHARE = 0.9; // of the height: clear of the level below
const LOUDEST_DB = 0;
const QUIETEST_DB = -60;
const PHASE_EVENTS = new Set(["closing", "failed", "ended"]); // the microphone is closed, and the page shows it

class Waveform {
  constructor(who) {
    this._who = who;
    this._canvas = document.getElementById(`${who}-wave`);
    this._meter = document.getElementById(`${who}-meter`);
    this._bars = [];
    this.dirty = true;
  }

  add({ peaks, rms }, quiet) {
    for (let at = 0; at < PEAKS_PER_FRAME; at += PEAKS_PER_BAR) {
      this._bars.push(quiet ? 0 : Math.max(...peaks.subarray(at, at + PEAKS_PER_BAR)));
    }
    this._bars.splice(0, this._bars.length - HISTORY_BARS);
    this._level = quiet ? 0 : rms;
    this.dirty = true;
  }

  clear() {
    this._bars = [];
    this._level = 0;
    this.dirty = true;
  }

  draw() {
    this.dirty = false;
    const db = Math.round(decibels(this._level ?? 0));
    this._meter.value = Math.max(QUIETEST_DB, Math.min(LOUDEST_DB, db));
    const { context, width, height } = clearedContext(this._canvas);
    const middle = height / 2;
    const step = BAR_PX + GAP_PX;
    const count = Math.floor(width / step);
    context.fillStyle = colour("line");
    context.fillRect(0, middle - 0.5, width, 1);
    context.fillStyle = colour(this._who);
    const shown = this._bars.slice(-count);
    context.beginPath();
    shown.forEach((peak, i) => {
      const x = width - (shown.length - i) * step;
      const tall = Math.max(BAR_PX, Math.sqrt(Math.min(1, peak)) * LOUDEST_SHARE * height);
      if (peak > 0.001) context.roundRect(x, middle - tall / 2, BAR_PX, tall, BAR_PX / 2);
    });
    context.fill();
  }
}

export class Waveforms {
  wantsAudio = true;

  constructor() {
    this._user = new Waveform("user");
    this._agent = new Waveform("agent");
    this._card = document.getElementById("waveforms");
    new ResizeObserver(() => this._redraw()).observe(this._card);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._redraw());
  }

  onEvent(event, phase) {
    if (event.kind === "speaking") this._card.dataset.speaking = String(event.speaking);
    const isOver = phase === "idle" || phase === "closing"; // reports of the last frames may still arrive
    if (event.kind === "opening" || (isOver && PHASE_EVENTS.has(event.kind))) {
      [this._user, this._agent].forEach((voice) => voice.clear());
    } else if (isOver) return;
    else if (event.kind === "captured") this._user.add(event, event.muted);
    else if (event.kind === "played") this._agent.add(event, false);
    else return;
    this._scheduleDraw();
  }

  _redraw() {
    this._user.dirty = true;
    this._agent.dirty = true;
    this._scheduleDraw();
  }

  _scheduleDraw() {
    if (this._isScheduled) return;
    this._isScheduled = true;
    requestAnimationFrame(() => {
      this._isScheduled = false;
      [this._user, this._agent].filter((voice) => voice.dirty).forEach((voice) => voice.draw());
    });
  }
}
