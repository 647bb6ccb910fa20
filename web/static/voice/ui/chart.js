/** The last minute of one figure, against what it may be: green below the budget, red above the limit. */

import { colour, fresh } from "./palette.js";

const POINTS = 60;

export class Chart {
  /** `limits`: values at which dashed lines stand; the last one is where it turns bad. */
  constructor(canvas, { limits, unit }) {
    this._canvas = canvas;
    this._limits = limits;
    this._unit = unit;
    this._values = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  add(value) {
    this._values.push(value);
    if (this._values.length > POINTS) this._values.shift();
    this.draw();
  }

  clear() {
    this._values = [];
    this.draw();
  }

  draw() {
    const { pen, width, height } = fresh(this._canvas);
    const known = this._values.filter((value) => value !== null);
    const top = 1.15 * Math.max(this._limits[0] ?? 0, 1, ...known);
    const y = (value) => height - (value / top) * (height - 3) - 1.5;
    pen.setLineDash([3, 3]);
    pen.strokeStyle = colour("faint");
    pen.lineWidth = 1;
    for (const limit of this._limits.filter((value) => value <= top)) {
      pen.beginPath();
      pen.moveTo(0, y(limit));
      pen.lineTo(width, y(limit));
      pen.stroke();
    }
    pen.setLineDash([]);
    pen.strokeStyle = colour(this._tone(known.at(-1)));
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    pen.beginPath();
    this._values.forEach((value, i) => {
      const x = width - (this._values.length - 1 - i) * (width / (POINTS - 1));
      if (value === null || this._values[i - 1] === null || i === 0) pen.moveTo(x, y(value ?? 0));
      else pen.lineTo(x, y(value));
    });
    pen.stroke();
    const last = known.at(-1);
    const label = last === undefined ? "no measurements yet" : `now ${last.toFixed(1)} ${this._unit}`;
    this._canvas.setAttribute("aria-label", `${this._canvas.dataset.name}: ${label}`);
  }

  _tone(value) {
    if (value === undefined || this._limits.length === 0) return "user";
    if (value > this._limits.at(-1)) return "bad";
    return value > this._limits[0] ? "warn" : "user";
  }
}
