/**
 * Words lie where they are said: a press on one plays the sound from there, by pointer or by keyboard.
 *
 * Drawn over the sound's shape, some seconds of it at a time; the view follows what plays. A slider to
 * assistive technology: its value is the time, its text the word.
 */

import { colour, fresh } from "../../voice/ui/palette.js";
import { Peaks, Positions, viewStart } from "./positions.js";
import { place } from "../data/times.js";

const PEAKS_PER_SECOND = 100;
const PX_PER_SECOND = 110;
const ROW_PX = 24;
const FONT = "13px system-ui, -apple-system, sans-serif";

export class Timeline {
  /** `play(seconds)` plays from there; `seek(seconds)` only goes there. */
  constructor({ rateHz, play, seek }) {
    this._rateHz = rateHz;
    this._play = play;
    this._seek = seek;
    this._place = document.getElementById("timeline");
    this._canvas = this._place.firstElementChild;
    this._positions = new Positions();
    this._clear();
    this._place.addEventListener("click", (event) => this._press(event));
    this._place.addEventListener("keydown", (event) => this._walk(event));
    new ResizeObserver(() => this.draw()).observe(this._canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  heed(event) {
    if (event.kind === "transcribing" || event.kind === "listening") this._clear();
    if (event.kind === "segment") {
      this._positions.add(event.segment.words ?? []);
      this.draw();
    }
  }

  /** More of the sound, 16 kHz. */
  hear(samples) {
    this._peaks.push(samples);
    this._samples += samples.length;
    this._place.setAttribute("aria-valuemax", this.durationS.toFixed(2));
  }

  get durationS() {
    return this._samples / this._rateHz;
  }

  /** The word that is said at `s`; null between words. */
  wordAt(s) {
    return this._positions.words[this._positions.at(s)] ?? null;
  }

  /** Where the playing is. */
  moveTo(s) {
    this._atS = s;
    const word = this.wordAt(s);
    this._place.setAttribute("aria-valuenow", s.toFixed(2));
    this._place.setAttribute("aria-valuetext", word === null ? place(s) : `${place(s)}: ${word.word.trim()}`);
    this.draw();
  }

  draw() {
    const { pen, width, height } = fresh(this._canvas);
    if (width === 0) return;
    const spanS = width / PX_PER_SECOND;
    const { durationS } = this;
    this._startS = viewStart({ atS: this._atS, spanS, durationS, startS: this._startS });
    const x = (s) => (s - this._startS) * PX_PER_SECOND;
    const floor = height - 2 * ROW_PX - 6;
    this._drawShape(pen, { width, floor });
    this._drawWords(pen, { x, endS: this._startS + spanS, floor });
    pen.fillStyle = colour("bad");
    pen.fillRect(x(this._atS) - 1, 0, 2, height);
  }

  _clear() {
    this._positions.clear();
    this._peaks = new Peaks({ rateHz: this._rateHz, perSecond: PEAKS_PER_SECOND });
    this._samples = 0;
    this._startS = 0;
    this._atS = 0;
  }

  _drawShape(pen, { width, floor }) {
    const middle = floor / 2;
    pen.fillStyle = colour("faint");
    for (let px = 0; px < width; px += 2) {
      const from = Math.floor((this._startS + px / PX_PER_SECOND) * PEAKS_PER_SECOND);
      const peak = Math.max(this._peaks.values[from] ?? 0, this._peaks.values[from + 1] ?? 0);
      const tall = Math.max(1, peak * (floor - 8));
      pen.fillRect(px, middle - tall / 2, 1, tall);
    }
  }

  _drawWords(pen, { x, endS, floor }) {
    const { words } = this._positions;
    pen.font = FONT;
    pen.textBaseline = "middle";
    for (let i = Math.max(0, this._positions.before(this._startS)); i < words.length; i += 1) {
      const { word, start, end } = words[i];
      if (start > endS) break;
      const top = floor + (i % 2) * ROW_PX;
      const [left, right] = [x(start), x(end)];
      const said = this._atS >= start && this._atS < end;
      pen.fillStyle = colour(said ? "user" : "line");
      pen.fillRect(left, top + 3, Math.max(2, right - left), ROW_PX - 6);
      // A label may run on until the next word of its row.
      const room = x(words[i + 2]?.start ?? endS) - left - 8;
      pen.save();
      pen.beginPath();
      pen.rect(left, top, Math.max(right - left, room), ROW_PX);
      pen.clip();
      pen.fillStyle = said ? getComputedStyle(this._place).getPropertyValue("--on-accent") : colour("ink");
      pen.fillText(word.trim(), left + 4, top + ROW_PX / 2);
      pen.restore();
    }
  }

  _press({ offsetX }) {
    const s = Math.min(this.durationS, this._startS + offsetX / PX_PER_SECOND);
    const word = this.wordAt(s) ?? this._positions.words[this._positions.before(s)] ?? null;
    const near = word !== null && s - word.end < 0.3; // a label is wider than a short word
    this._play(near ? word.start : s);
  }

  _walk(event) {
    const { words } = this._positions;
    const goto = (index) => index >= 0 && this._seek(words[index].start);
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    if (event.key in steps) goto(this._positions.step(this._atS, steps[event.key]));
    else if (event.key === "Home") goto(words.length > 0 ? 0 : -1);
    else if (event.key === "End") goto(words.length - 1);
    else if (event.key === "Enter" || event.key === " ") this._play(this._atS);
    else return;
    event.preventDefault();
  }
}
