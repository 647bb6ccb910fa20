/**
 * Waveforms and level meters of the user and the agent, the newest audio on the right, one bar per 20 ms.
 *
 * Drawn at most once per screen refresh, and only when there is new audio.
 */

import { PEAKS_PER_FRAME, decibels } from "../audio/envelope.js";
import { Listener } from "../listener.js";
import { colour, clearedContext } from "./palette.js";

const PEAKS_PER_BAR = 4;
const BARS_PER_FRAME = PEAKS_PER_FRAME / PEAKS_PER_BAR;
const BAR_PX = 3;
const GAP_PX = 2;
const HISTORY_BARS = 600;
const INAUDIBLE = 0.001;
const LOUDEST_SHARE = 0.9; // of the height: clear of the level below
const LOUDEST_DB = 0;
const QUIETEST_DB = -60;

class Waveform {
  constructor(who) {
    this._who = who;
    this._canvas = document.getElementById(`${who}-wave`);
    this._meter = document.getElementById(`${who}-meter`);
    this._bars = new Float32Array(HISTORY_BARS); // the newest last
    this._level = 0;
    this.dirty = true;
  }

  add({ peaks, rms, muted = false }) {
    const gain = muted ? 0 : 1;
    this._bars.copyWithin(0, BARS_PER_FRAME);
    for (let i = 1; i <= BARS_PER_FRAME; i += 1) {
      const end = peaks.length - (i - 1) * PEAKS_PER_BAR;
      this._bars[HISTORY_BARS - i] = gain * Math.max(...peaks.subarray(end - PEAKS_PER_BAR, end));
    }
    this._level = gain * rms;
    this.dirty = true;
  }

  clear() {
    this._bars.fill(0);
    this._level = 0;
    this.dirty = true;
  }

  draw() {
    this.dirty = false;
    const db = Math.round(decibels(this._level));
    this._meter.value = Math.max(QUIETEST_DB, Math.min(LOUDEST_DB, db));
    const { context, width, height } = clearedContext(this._canvas);
    const middle = height / 2;
    const step = BAR_PX + GAP_PX;
    context.fillStyle = colour("line");
    context.fillRect(0, middle - 0.5, width, 1);
    context.fillStyle = colour(this._who);
    context.beginPath();
    for (let i = HISTORY_BARS - 1, x = width - step; i >= 0 && x >= 0; i -= 1, x -= step) {
      const peak = this._bars[i];
      if (peak <= INAUDIBLE) continue;
      const tall = Math.max(BAR_PX, Math.sqrt(Math.min(1, peak)) * LOUDEST_SHARE * height);
      context.roundRect(x, middle - tall / 2, BAR_PX, tall, BAR_PX / 2);
    }
    context.fill();
  }
}

export class Waveforms extends Listener {
  constructor() {
    super();
    this._user = new Waveform("user");
    this._agent = new Waveform("agent");
    this._card = document.getElementById("waveforms");
    new ResizeObserver(() => this._redraw()).observe(this._card);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._redraw());
  }

  on_captured(event, phase) {
    this._add(this._user, event, phase);
  }

  on_played(event, phase) {
    this._add(this._agent, event, phase);
  }

  on_speaking({ speaking }) {
    this._card.dataset.speaking = String(speaking);
  }

  on_opening() {
    this._clear();
  }

  on_closing() {
    this._clear(); // the microphone is closed, and the page shows it
  }

  on_failed() {
    this._clear();
  }

  on_ended() {
    this._clear();
  }

  _add(waveform, event, phase) {
    if (phase === "idle" || phase === "closing") return; // reports of the last frames may still arrive
    waveform.add(event);
    this._scheduleDraw();
  }

  _clear() {
    this._user.clear();
    this._agent.clear();
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
      if (this._user.dirty) this._user.draw();
      if (this._agent.dirty) this._agent.draw();
    });
  }
}
