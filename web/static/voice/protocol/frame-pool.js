/** Frames of 1920 samples that are filled again: a new one is made only when none has come back. */

import { FRAME_SAMPLES } from "../units.js";

const MAX_FRAMES = 8; // more are on their way only in bursts

export class FramePool {
  constructor() {
    this._frames = [];
  }

  take() {
    return this._frames.pop() ?? new Float32Array(FRAME_SAMPLES);
  }

  /** Give back a frame that nobody reads any more. */
  give(frame) {
    if (this._frames.length < MAX_FRAMES) this._frames.push(frame);
  }
}
