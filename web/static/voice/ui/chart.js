/** A sparkline of the last minute of one metric, coloured by its limits. */

import { colour, clearedContext } from "./palette.js";

const POINTS = 60;

export class Chart {
  /** The canvas names what is drawn: see stats-markup.js. Above the first limit it is a warning, above the last bad. */
  constructor(canvas) {
    const { value, limits, unit } = canvas.dataset;
    this.path = value;
    this._canvas = canvas;
    this._limits = limits.split(" ").filter(Boolean).map(Number);
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
    const { context, width, height } = clearedContext(this._canvas);
    const last = this._values.findLast((value) => value !== null);
    const top = 1.15 * Math.max(this._limits[0] ?? 0, 1, ...this._values);
    const y = (value) => height - (value / top) * (height - 3) - 1.5;
    context.setLineDash([3, 3]);
    context.strokeStyle = colour("faint");
    context.lineWidth = 1;
    context.beginPath();
    this._limits.forEach((limit) => {
      context.moveTo(0, y(limit)); // outside of the canvas if it is above `top`
      context.lineTo(width, y(limit));
    });
    context.stroke();
    context.setLineDash([]);
    context.strokeStyle = colour(this._tone(last));
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    context.beginPath();
    this._values.forEach((value, i) => {
      const x = width - (this._values.length - 1 - i) * (width / (POINTS - 1));
      if (value === null || this._values[i - 1] === null || i === 0) context.moveTo(x, y(value ?? 0));
      else context.lineTo(x, y(value));
    });
    context.stroke();
    const label = last === undefined ? "no data yet" : `now ${last.toFixed(1)} ${this._unit}`;
    this._canvas.setAttribute("aria-label", `${this._canvas.dataset.name}: ${label}`);
  }

  _tone(value) {
    if (value === undefined || this._limits.length === 0) return "user";
    if (value > this._limits.at(-1)) return "bad";
    return value > this._limits[0] ? "warn" : "user";
  }
}
