/** p50 and p95 of the last `size` values. */

export class RollingPercentiles {
  constructor(size) {
    this._values = new Float64Array(size);
    this.count = 0;
  }

  add(value) {
    this._values[this.count % this._values.length] = value;
    this.count += 1;
  }

  /** {p50, p95, count}, by nearest rank; the percentiles are null before the first value. */
  summary() {
    const sorted = this._values.slice(0, Math.min(this.count, this._values.length)).sort();
    const rank = (share) => (sorted.length === 0 ? null : sorted[Math.ceil(share * sorted.length) - 1]);
    return { p50: rank(0.5), p95: rank(0.95), count: this.count };
  }
}
