/**
 * Windows become one transcript: segments in order, numbered, at their times in the recording.
 *
 * What one clip needs of those before it is kept here: the language, and the text that goes before. A clip is
 * heard as far as its timestamps reach, and the rest of its window again.
 */

import { RATE_HZ } from "../streaming/cutting.js";
import { WINDOW_S } from "../options.js";
import { Trouble } from "../errors.js";

const SHORTEST_REST_S = 0.4; // less than the padding: nobody spoke there
const SEEK_HZ = 100; // faster-whisper's `seek` counts frames of 10 ms

export class Transcription {
  /** `onSegment(segment)`, and `onDropped({start, end, reason})` for a clip that could not be decoded. */
  constructor(scribe, options, { onSegment, onDropped }) {
    this._scribe = scribe;
    this._options = options;
    this._onSegment = onSegment;
    this._onDropped = onDropped;
    this._previous = [];
    this._prompt = options.initial_prompt;
    this._count = 0;
    this._isCancelled = false;
    this._language = options.language;
    this.language = { language: options.language, language_probability: 1, all_language_probs: null };
  }

  /** The clip that is being decoded is the last. */
  cancel() {
    this._isCancelled = true;
    this._scribe.cancel();
  }

  /** All of a window; its segments. Throws `cancelled` once it is. */
  async take(window) {
    const segments = [];
    const { length } = window.samples;
    for (let seek = 0; seek === 0 || length - seek > SHORTEST_REST_S * RATE_HZ;) {
      if (this._isCancelled) throw new Trouble("cancelled", "The transcription was cancelled.");
      const clip = window.samples.slice(seek, seek + WINDOW_S * RATE_HZ);
      const offset = seek / RATE_HZ;
      let result;
      try {
        result = await this._scribe.decode(clip, this.optionsNow());
      } catch (error) {
        if (error.code !== "stalled" && error.code !== "crashed") throw error;
        const end = window.at(offset + clip.length / RATE_HZ, { isEnd: true });
        this._onDropped({ start: window.at(offset), end, reason: error.code });
        result = null;
      }
      if (result !== null) {
        this._heed(result);
        for (const segment of result.segments) segments.push(this._place(segment, offset, window));
      }
      seek += result === null ? clip.length : Math.max(1, Math.round(result.consumed * RATE_HZ));
    }
    return segments;
  }

  /** What the next clip is decoded with. */
  optionsNow() {
    return {
      ...this._options,
      language: this._language,
      initial_prompt: this._prompt,
      previous: this._previous.slice(-WINDOW_TOKENS),
    };
  }

  _heed({ language, language_probability, all_language_probs, segments, temperature }) {
    if (this._language === null) {
      this.language = { language, language_probability, all_language_probs };
      if (segments.length > 0) this._language = language; // silence has no language
    }
    for (const { tokens } of segments) this._previous.push(...tokens);
    const { condition_on_previous_text: isConditioned, prompt_reset_on_temperature: limit } = this._options;
    if (!isConditioned || temperature > limit) [this._previous, this._prompt] = [[], null];
    this._previous = this._previous.slice(-WINDOW_TOKENS);
  }

  _place(segment, offset, window) {
    const at = (seconds, isEnd) => round(window.at(offset + seconds, { isEnd }));
    this._count += 1;
    const placed = {
      id: this._count,
      seek: Math.round(window.at(offset) * SEEK_HZ),
      ...segment,
      start: at(segment.start, false),
      end: at(segment.end, true),
      words:
        segment.words?.map((word) => ({ ...word, start: at(word.start, false), end: at(word.end, true) })) ?? null,
    };
    this._onSegment(placed);
    return placed;
  }
}

const WINDOW_TOKENS = 448; // more never fits into a prompt

function round(seconds) {
  return Math.round(seconds * 100) / 100;
}
