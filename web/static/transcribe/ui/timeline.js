/**
 * The word timeline: words over the waveform; click one, or use the keyboard, to play from there.
 *
 * Shows some seconds at a time and follows the playback. To assistive technology it is a slider: its value is the
 * time, its text the word.
 */

import { clearedContext, colour } from "../../voice/ui/palette.js";
import { Peaks, WordIndex, viewStart } from "./timeline-model.js";
import { formatPosition } from "../data/format.js";

const PEAKS_PER_SECOND = 100;
const PX_PER_SECOND = 110;
const MAX_ZOOM = 4; // of a file that is shorter than the timeline is wide
const ROW_PX = 24;
const FONT = "13px system-ui, -apple-system, sans-serif";

export class Timeline {
  /** `play(seconds)`: play from there; `seek(seconds)`: move there without playing. */
  constructor({ rateHz, play, seek }) {
    this._rateHz = rateHz;
    this._play = play;
    this._seek = seek;
    this._root = document.getElementById("timeline");
    this._canvas = this._root.firstElementChild;
    this._index = new WordIndex();
    this._isWhole = false;
    this._pxPerSecond = PX_PER_SECOND;
    this._clear();
    this._root.addEventListener("click", (event) => this._onClick(event));
    this._root.addEventListener("keydown", (event) => this._onKeyDown(event));
    new ResizeObserver(() => this.draw()).observe(this._canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  onEvent(event) {
    if (event.kind === "transcribing" || event.kind === "listening") {
      this._clear();
      this._isWhole = event.kind === "transcribing"; // the length of live audio is not known
    }
    if (event.kind === "segment") {
      this._index.add(event.segment.words ?? []);
      this.draw();
    }
  }

  /** Add audio. */
  append(samples) {
    this._peaks.push(samples);
    this._samples += samples.length;
    this._root.setAttribute("aria-valuemax", this.durationS.toFixed(2));
  }

  get durationS() {
    return this._samples / this._rateHz;
  }

  /** The word at `s`; null between words. */
  wordAt(s) {
    return this._index.words[this._index.at(s)] ?? null;
  }

  /** Show the playback position. */
  moveTo(s) {
    this._positionS = s;
    const word = this.wordAt(s);
    this._root.setAttribute("aria-valuenow", s.toFixed(2));
    const time = formatPosition(s);
    this._root.setAttribute("aria-valuetext", word === null ? time : `${time}: ${word.word.trim()}`);
    this.draw();
  }

  draw() {
    const { context, width, height } = clearedContext(this._canvas);
    if (width === 0) return;
    const { durationS } = this;
    this._pxPerSecond = PX_PER_SECOND;
    if (this._isWhole) this._pxPerSecond *= Math.max(1, Math.min(MAX_ZOOM, width / PX_PER_SECOND / durationS));
    const spanS = width / this._pxPerSecond;
    this._startS = viewStart({ atS: this._positionS, spanS, durationS, startS: this._startS });
    const x = (s) => (s - this._startS) * this._pxPerSecond;
    const floor = height - 2 * ROW_PX - 6;
    this._drawWaveform(context, { width, floor });
    this._drawWords(context, { x, endS: this._startS + spanS, floor });
    context.fillStyle = colour("bad");
    context.fillRect(x(this._positionS) - 1, 0, 2, height);
  }

  _clear() {
    this._index.clear();
    this._peaks = new Peaks({ rateHz: this._rateHz, perSecond: PEAKS_PER_SECOND });
    this._samples = 0;
    this._startS = 0;
    this._positionS = 0;
  }

  _drawWaveform(context, { width, floor }) {
    const middle = floor / 2;
    context.fillStyle = colour("faint");
    const end = Math.min(width, (this.durationS - this._startS) * this._pxPerSecond);
    for (let px = 0; px < end; px += 2) {
      const from = Math.floor((this._startS + px / this._pxPerSecond) * PEAKS_PER_SECOND);
      const peak = Math.max(this._peaks.values[from] ?? 0, this._peaks.values[from + 1] ?? 0);
      const tall = Math.max(1, peak * (floor - 8));
      context.fillRect(px, middle - tall / 2, 1, tall);
    }
  }

  _drawWords(context, { x, endS, floor }) {
    const { words } = this._index;
    context.font = FONT;
    context.textBaseline = "middle";
    for (let i = Math.max(0, this._index.before(this._startS)); i < words.length; i += 1) {
      const { word, start, end } = words[i];
      if (start > endS) break;
      const top = floor + (i % 2) * ROW_PX;
      const [left, right] = [x(start), x(end)];
      const isCurrent = this._positionS >= start && this._positionS < end;
      context.fillStyle = colour(isCurrent ? "user" : "line");
      context.fillRect(left, top + 3, Math.max(2, right - left), ROW_PX - 6);
      // A label may extend to the next word of its row.
      const room = x(words[i + 2]?.start ?? endS) - left - 8;
      context.save();
      context.beginPath();
      context.rect(left, top, Math.max(right - left, room), ROW_PX);
      context.clip();
      context.fillStyle = isCurrent ? getComputedStyle(this._root).getPropertyValue("--on-accent") : colour("ink");
      context.fillText(word.trim(), left + 4, top + ROW_PX / 2);
      context.restore();
    }
  }

  _onClick({ offsetX }) {
    const s = Math.min(this.durationS, this._startS + offsetX / this._pxPerSecond);
    const word = this.wordAt(s) ?? this._index.words[this._index.before(s)] ?? null;
    const isNear = word !== null && s - word.end < 0.3; // the label may be wider than the word
    this._play(isNear ? word.start : s);
  }

  _onKeyDown(event) {
    const { words } = this._index;
    const goto = (index) => index >= 0 && this._seek(words[index].start);
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    if (event.key in steps) goto(this._index.step(this._positionS, steps[event.key]));
    else if (event.key === "Home") goto(words.length > 0 ? 0 : -1);
    else if (event.key === "End") goto(words.length - 1);
    else if (event.key === "Enter" || event.key === " ") this._play(this._positionS);
    else return;
    event.preventDefault();
  }
}
