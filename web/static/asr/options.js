/**
 * Transcription options with faster-whisper's names and defaults; unknown or invalid ones are rejected.
 *
 * Differences: `beam_size` and `best_of` are fixed at 1 and are not options; `max_new_tokens` always applies,
 * so that every decode ends; a window is at most 30 s long; streams use a shorter minimum silence than files.
 * Source: SYSTRAN/faster-whisper, `WhisperModel.transcribe` and `VadOptions`.
 */

import { AsrError } from "./errors.js";

export const WINDOW_S = 30;
export const MAX_NEW_TOKENS = 224; // half of the decoder's 448 positions; the prompt may use the other half

const DEFAULTS = Object.freeze({
  task: "transcribe",
  language: null, // detect
  vad_filter: false,
  temperature: Object.freeze([0, 0.2, 0.4, 0.6, 0.8, 1]),
  compression_ratio_threshold: 2.4,
  log_prob_threshold: -1,
  no_speech_threshold: 0.6,
  condition_on_previous_text: true,
  prompt_reset_on_temperature: 0.5,
  initial_prompt: null,
  max_initial_timestamp: 1,
  max_new_tokens: MAX_NEW_TOKENS,
  word_timestamps: false,
});

const VAD_DEFAULTS = Object.freeze({
  threshold: 0.5,
  neg_threshold: null, // threshold − 0.15
  min_speech_duration_ms: 0,
  max_speech_duration_s: WINDOW_S,
  min_silence_duration_ms: 2000,
  speech_pad_ms: 400,
});

/** For live streams: shorter pauses end a window, and no window is longer than 20 s. */
const STREAM_VAD_DEFAULTS = Object.freeze({
  ...VAD_DEFAULTS,
  min_speech_duration_ms: 100,
  max_speech_duration_s: 20,
  min_silence_duration_ms: 600,
  speech_pad_ms: 200,
});

const nullOr = (check) => (value) => value === null || check(value);
const between = (low, high) => (value) => typeof value === "number" && value >= low && value <= high;
const isBoolean = (value) => typeof value === "boolean";
const isCount = (value) => Number.isInteger(value) && value > 0;

const RULES = {
  task: [(value) => ["transcribe", "translate"].includes(value), '"transcribe" or "translate"'],
  language: [nullOr((value) => /^[a-z]{2,3}$/.test(value)), 'a code such as "en", or null'],
  vad_filter: [isBoolean, "true or false"],
  temperature: [
    (value) => Array.isArray(value) && value.length > 0 && value.every(between(0, 2)),
    "a number from 0 to 2, or a list of them",
  ],
  compression_ratio_threshold: [nullOr(between(0, Infinity)), "a number, or null"],
  log_prob_threshold: [nullOr(between(-Infinity, 0)), "a number up to 0, or null"],
  no_speech_threshold: [nullOr(between(0, 1)), "a number from 0 to 1, or null"],
  condition_on_previous_text: [isBoolean, "true or false"],
  prompt_reset_on_temperature: [between(0, 2), "a number from 0 to 2"],
  initial_prompt: [nullOr((value) => typeof value === "string"), "text, or null"],
  max_initial_timestamp: [between(0, WINDOW_S), `a number of seconds up to ${WINDOW_S}`],
  max_new_tokens: [
    (value) => isCount(value) && value <= MAX_NEW_TOKENS,
    `a whole number from 1 to ${MAX_NEW_TOKENS}`,
  ],
  word_timestamps: [isBoolean, "true or false"],
};

const VAD_RULES = {
  threshold: [between(0, 1), "a number from 0 to 1"],
  neg_threshold: [nullOr(between(0, 1)), "a number from 0 to 1, or null"],
  min_speech_duration_ms: [between(0, 60_000), "milliseconds"],
  max_speech_duration_s: [between(1, WINDOW_S), `seconds, from 1 to ${WINDOW_S}`],
  min_silence_duration_ms: [between(0, 60_000), "milliseconds"],
  speech_pad_ms: [between(0, 5_000), "milliseconds up to 5000"],
};

/** Validate `given` and fill in the defaults. Throws AsrError with the code `options`. */
export function readOptions(given = {}, { streaming = false } = {}) {
  const { vad_parameters: vadGiven = null, temperature, ...others } = given;
  const options = { ...DEFAULTS, ...withoutUndefined(others) };
  options.temperature = temperature === undefined ? DEFAULTS.temperature : [temperature].flat();
  if (streaming) options.vad_filter = true;
  check(options, RULES, "");
  const vad = { ...(streaming ? STREAM_VAD_DEFAULTS : VAD_DEFAULTS), ...withoutUndefined(vadGiven ?? {}) };
  check(vad, VAD_RULES, "vad_parameters.");
  vad.neg_threshold ??= Math.max(vad.threshold - 0.15, 0.01);
  if (2 * vad.speech_pad_ms >= 1000 * vad.max_speech_duration_s) {
    throw new AsrError("options", "vad_parameters.speech_pad_ms must be less than half of max_speech_duration_s.");
  }
  return { ...options, vad_parameters: vad };
}

function check(options, rules, path) {
  for (const [name, value] of Object.entries(options)) {
    if (!(name in rules)) throw new AsrError("options", `Unknown option: ${path}${name}.`);
    const [isValid, expected] = rules[name];
    if (!isValid(value)) {
      throw new AsrError("options", `${path}${name} must be ${expected}, not ${JSON.stringify(value)}.`);
    }
  }
}

function withoutUndefined(given) {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}
