/**
 * One transcript across windows: numbered segments in order, with times in the recording.
 *
 * Keeps what is carried from one clip to the next: the language, and the previous text for the prompt. A clip is
 * consumed up to its last timestamp; the remainder of the window is decoded again.
 */

import { RATE_HZ } from "../streaming/speech-segmenter.js";
import { WINDOW_S } from "../options.js";
import { AsrError } from "../errors.js";

const MIN_REMAINDER_S = 0.4; // less than the padding, so it contains no speech
const SEEK_HZ = 100; // faster-whisper's `seek` counts frames of 10 ms

export class Transcription {
  /** Calls `onSegment(segment)`, and `onDropped({start, end, reason})` for a clip that could not be decoded. */
  constructor(asrClient, options, { onSegment, onDropped }) {
    this._asrClient = asrClient;
    this._options = options;
    this._onSegment = onSegment;
    this._onDropped = onDropped;
    this._previousTokens = [];
    this._initialPrompt = options.initial_prompt;
    this._count = 0;
    this._isCancelled = false;
    this._language = options.language;
    this.language = { language: options.language, language_probability: 1, all_language_probs: null };
  }

  /** Cancel; the current clip is the last. */
  cancel() {
    this._isCancelled = true;
    this._asrClient.cancel();
  }

  /** Transcribe a whole window. → its segments. Throws AsrError `cancelled` after `cancel()`. */
  async transcribeWindow(window) {
    const segments = [];
    const { length } = window.samples;
    for (let seek = 0; seek === 0 || length - seek > MIN_REMAINDER_S * RATE_HZ;) {
      if (this._isCancelled) throw new AsrError("cancelled", "The transcription was cancelled.");
      const clip = window.samples.slice(seek, seek + WINDOW_S * RATE_HZ);
      const offset = seek / RATE_HZ;
      let result;
      try {
        result = await this._asrClient.decode(clip, this.currentOptions());
      } catch (error) {
        if (error.code !== "stalled" && error.code !== "crashed") throw error;
        const end = window.at(offset + clip.length / RATE_HZ, { isEnd: true });
        this._onDropped({ start: window.at(offset), end, reason: error.code });
        result = null;
      }
      if (result !== null) {
        this._update(result);
        for (const segment of result.segments) segments.push(this._toRecordingTime(segment, offset, window));
      }
      seek += result === null ? clip.length : Math.max(1, Math.round(result.consumed * RATE_HZ));
    }
    return segments;
  }

  /** The options for the next clip. */
  currentOptions() {
    return {
      ...this._options,
      language: this._language,
      initial_prompt: this._initialPrompt,
      previous: this._previousTokens.slice(-WINDOW_TOKENS),
    };
  }

  _update({ language, language_probability, all_language_probs, segments, temperature }) {
    if (this._language === null) {
      this.language = { language, language_probability, all_language_probs };
      if (segments.length > 0) this._language = language; // silence says nothing about the language
    }
    for (const { tokens } of segments) this._previousTokens.push(...tokens);
    const { condition_on_previous_text: isConditioned, prompt_reset_on_temperature: limit } = this._options;
    if (!isConditioned || temperature > limit) [this._previousTokens, this._initialPrompt] = [[], null];
    this._previousTokens = this._previousTokens.slice(-WINDOW_TOKENS);
  }

  _toRecordingTime(segment, offset, window) {
    const words = segment.words?.map((word) => {
      const span = window.spanOf({ start: offset + word.start, end: offset + word.end });
      return { ...word, start: round(span.start), end: round(span.end) };
    });
    this._count += 1;
    const inRecording = {
      id: this._count,
      seek: Math.round(window.at(offset) * SEEK_HZ),
      ...segment,
      start: words?.[0].start ?? round(window.at(offset + segment.start)),
      end: words?.at(-1).end ?? round(window.at(offset + segment.end, { isEnd: true })),
      words: words ?? null,
    };
    this._onSegment(inRecording);
    return inRecording;
  }
}

const WINDOW_TOKENS = 448; // more never fits in a prompt

function round(seconds) {
  return Math.round(seconds * 100) / 100;
}
