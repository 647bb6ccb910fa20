/**
 * Both voices pass by as they sound, the newest on the right: one bar for 20 ms, and a level meter each.
 *
 * Drawn once for each screen refresh at most, and not at all while nothing is heard.
 */

import { PEAKS_PER_FRAME, decibels } from "../audio/envelope.js";
import { colour, fresh } from "./palette.js";

const PEAKS_PER_BAR = 4;
const BAR_PX = 3;
const GAP_PX = 2;
const HISTORY_BARS = 600;
const LOUDEST_DB = 0;
const QUIETEST_DB = -60;

class Voice {
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
    const { pen, width, height } = fresh(this._canvas);
    const middle = height / 2;
    const step = BAR_PX + GAP_PX;
    const count = Math.floor(width / step);
    pen.fillStyle = colour("line");
    pen.fillRect(0, middle - 0.5, width, 1);
    pen.fillStyle = colour(this._who);
    const shown = this._bars.slice(-count);
    pen.beginPath();
    shown.forEach((peak, i) => {
      const x = width - (shown.length - i) * step;
      const tall = Math.max(BAR_PX, Math.sqrt(Math.min(1, peak)) * height);
      if (peak > 0.001) pen.roundRect(x, middle - tall / 2, BAR_PX, tall, BAR_PX / 2);
    });
    pen.fill();
  }
}

export class Voices {
  constructor() {
    this._user = new Voice("user");
    this._agent = new Voice("agent");
    this._card = document.getElementById("voices");
    new ResizeObserver(() => this._redraw()).observe(this._card);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._redraw());
  }

  heed(event) {
    if (event.kind === "speaking") this._card.dataset.speaking = String(event.speaking);
    if (event.kind === "heard") this._user.add(event, event.muted);
    else if (event.kind === "played") this._agent.add(event, false);
    else if (event.kind === "opening") [this._user, this._agent].forEach((voice) => voice.clear());
    else return;
    this._soon();
  }

  _redraw() {
    this._user.dirty = true;
    this._agent.dirty = true;
    this._soon();
  }

  _soon() {
    if (this._asked) return;
    this._asked = true;
    requestAnimationFrame(() => {
      this._asked = false;
      [this._user, this._agent].filter((voice) => voice.dirty).forEach((voice) => voice.draw());
    });
  }
}
