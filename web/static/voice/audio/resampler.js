/**
 * Streaming resampler: the result does not depend on how the input is split.
 *
 * Polyphase windowed sinc: the ratio is reduced to out/in = L/M, and output n is at input position n·M/L exactly,
 * so that there is no drift. The passband is flat up to 0.94 of the lower Nyquist frequency; the window is Kaiser
 * (β = 8, about 80 dB of stopband attenuation).
 * Source: Smith, "Digital Audio Resampling", CCRMA.
 */

const ZERO_CROSSINGS = 16;
const ROLLOFF = 0.94;
const KAISER_BETA = 8;

export class Resampler {
  constructor(inHz, outHz) {
    const divisor = gcd(inHz, outHz);
    this._up = outHz / divisor;
    this._down = inHz / divisor;
    const cutoff = Math.min(1, this._up / this._down) * ROLLOFF;
    this._reach = Math.ceil(ZERO_CROSSINGS / cutoff);
    this._phases = phases(this._up, this._reach, cutoff);
    // Both buffers grow to the largest input and are then filled again: audio threads leave no garbage.
    this._held = new Float32Array(2 * this._reach);
    this._heldSamples = this._reach - 1; // preceded by silence, so that output 0 is at input 0
    this._out = new Float32Array(0);
    this._index = 0; // of the input sample at or before the next output, counted in _held
    this._phase = 0; // how far the next output is after it, in 1/up of a sample
  }

  /** Add `samples`. → the output available so far, in a buffer that the next call fills again. */
  process(samples) {
    this._reserve(samples.length);
    const length = this._heldSamples + samples.length;
    this._held.set(samples, this._heldSamples);
    const taps = 2 * this._reach;
    let made = 0;
    while (this._index + taps <= length) {
      const kernel = this._phases[this._phase];
      let sum = 0;
      for (let tap = 0; tap < taps; tap += 1) sum += kernel[tap] * this._held[this._index + tap];
      this._out[made] = sum;
      made += 1;
      this._phase += this._down;
      this._index += Math.floor(this._phase / this._up);
      this._phase %= this._up;
    }
    const dropped = Math.min(this._index, length);
    this._held.copyWithin(0, dropped, length);
    this._heldSamples = length - dropped;
    this._index -= dropped;
    return this._out.subarray(0, made);
  }

  /** Make room for so many samples beside those that are held, which are fewer than a kernel has taps. */
  _reserve(count) {
    const size = 2 * this._reach + count;
    if (size <= this._held.length) return;
    const held = new Float32Array(size);
    held.set(this._held);
    this._held = held;
    this._out = new Float32Array(Math.ceil((size * this._up) / this._down) + 1);
  }
}

/** One kernel for each of the `up` positions that an output may have between two inputs. */
function phases(up, reach, cutoff) {
  return Array.from({ length: up }, (_, phase) => {
    const kernel = Float64Array.from({ length: 2 * reach }, (_unused, tap) => {
      const distance = tap - (reach - 1) - phase / up;
      return cutoff * sinc(cutoff * distance) * kaiser(distance / reach);
    });
    const sum = kernel.reduce((total, weight) => total + weight, 0);
    return kernel.map((weight) => weight / sum); // unity gain at DC
  });
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function kaiser(x) {
  return Math.abs(x) >= 1 ? 0 : bessel(KAISER_BETA * Math.sqrt(1 - x * x)) / bessel(KAISER_BETA);
}

/** The modified Bessel function I₀, by its power series. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}
