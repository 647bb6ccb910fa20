/**
 * A sample of a voice: the agent, with this voice and no role, answers a recorded question in a call of its own, which
 * needs no microphone and leaves nothing in the transcript. No clock: times are passed in. See main.js.
 */

import { recordingOf } from "./questions.js";

export const SAMPLE_QUESTION = recordingOf("who are you");

const LONGEST_MS = 8000; // an answer that goes on is cut here
const SILENCE_MS = 4000; // an agent that says nothing in this time says nothing
const PAUSE_MS = 1000; // longer than between two words
const AUDIBLE_RMS = 0.01;

/** Decides when the answer is over. */
export class SampleEnd {
  /** `askedMs`: when the question ended. */
  constructor(askedMs) {
    this._askedMs = askedMs;
    this._audibleMs = null; // when the agent was audible last
  }

  get wasHeard() {
    return this._audibleMs !== null;
  }

  /** Whether the sample is over; `rms`: of what is played at `nowMs`. */
  isOver(rms, nowMs) {
    if (rms > AUDIBLE_RMS) this._audibleMs = nowMs;
    if (nowMs - this._askedMs >= LONGEST_MS) return true;
    if (this._audibleMs === null) return nowMs - this._askedMs >= SILENCE_MS;
    return nowMs - this._audibleMs >= PAUSE_MS;
  }
}
