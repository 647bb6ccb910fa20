/** Whatever pieces samples come in, they leave in frames of exactly 1920, none lost and none twice. */

import { FRAME_SAMPLES } from "../units.js";

export class Framer {
  constructor() {
    this._frame = new Float32Array(FRAME_SAMPLES);
    this._filled = 0;
  }

  /** Take `samples`; `emit(frame)` is called with each whole frame, which is then the caller's. */
  push(samples, emit) {
    let taken = 0;
    while (taken < samples.length) {
      const part = samples.subarray(taken, taken + FRAME_SAMPLES - this._filled);
      this._frame.set(part, this._filled);
      this._filled += part.length;
      taken += part.length;
      if (this._filled < FRAME_SAMPLES) continue;
      const whole = this._frame;
      this._frame = new Float32Array(FRAME_SAMPLES);
      this._filled = 0;
      emit(whole);
    }
  }
}
