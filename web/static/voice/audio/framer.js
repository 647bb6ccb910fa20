/** Collects samples in pieces of any size into frames of exactly 1920, in one buffer: audio threads leave no garbage. */

import { FRAME_SAMPLES } from "../units.js";

export class Framer {
  constructor() {
    this._frame = new Float32Array(FRAME_SAMPLES);
    this._filled = 0;
  }

  /** Add `samples`; calls `emit(frame)` with each complete frame, which is then filled again. */
  push(samples, emit) {
    let taken = 0;
    while (taken < samples.length) {
      const part = samples.subarray(taken, taken + FRAME_SAMPLES - this._filled);
      this._frame.set(part, this._filled);
      this._filled += part.length;
      taken += part.length;
      if (this._filled < FRAME_SAMPLES) continue;
      this._filled = 0;
      emit(this._frame);
    }
  }
}
