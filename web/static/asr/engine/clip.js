/**
 * Transcribe one clip of up to 30 s into segments; stateless.
 *
 * Same order as faster-whisper: language, prompt, hypotheses, silence check, segments, words. Times are seconds
 * from the start of the clip.
 */

import { alignTokens } from "./alignment.js";
import { decode, probabilities, seeded } from "./decoding.js";
import { withFallback } from "./fallback.js";
import { LogitRules } from "./logit-rules.js";
import { splitSegments } from "./segments.js";
import { SoundLevels } from "./sound-levels.js";
import { AsrError } from "../errors.js";
import { splitWords, timedWords } from "./word-timestamps.js";

const RATE_HZ = 16_000;
const PROMPT_TOKENS = 223; // half of the decoder's positions, less the start-of-previous token

/**
 * `options`: from `readOptions`, plus `previous` (tokens of the preceding text). `onToken(count)` is awaited after
 * each token. → {segments, consumed, language, language_probability, all_language_probs, temperature}.
 */
export async function transcribeClip(model, samples, options, onToken) {
  const duration = samples.length / RATE_HZ;
  const encoded = await model.encode(samples);
  await onToken(0);
  const detected = await languageOf(model, encoded, options.language);
  const { tokens: ids } = model;
  const prompt = promptOf(model, detected.language, options);
  const rules = new LogitRules(ids, { maxInitialTimestamp: options.max_initial_timestamp });

  const attempt = async (temperature) => {
    const decoder = model.startDecoding(encoded);
    try {
      const first = await decoder.step(prompt);
      const [no_speech_prob] = probabilities(first.rowAt(prompt.indexOf(ids.start)), [ids.noSpeech]);
      const decoded = await decode({
        first,
        step: (tokens) => decoder.step(tokens),
        rules,
        end: ids.end,
        temperature,
        maxTokens: Math.min(options.max_new_tokens, model.maxPositions - prompt.length),
        random: seeded(samples.length),
        onToken,
      });
      return { ...decoded, no_speech_prob, text: model.text(decoded.tokens) };
    } finally {
      decoder.close();
    }
  };

  const result = await withFallback(attempt, options);
  encoded.states.dispose();
  const outcome = { ...detected, temperature: result.temperature, segments: [], consumed: duration };
  const { no_speech_threshold: maxNoSpeech, log_prob_threshold: minLogprob } = options;
  const levels = new SoundLevels(samples);
  const isSilence = maxNoSpeech !== null && result.no_speech_prob > maxNoSpeech;
  const isLikely = minLogprob !== null && result.avg_logprob > minLogprob;
  if (isSilence && !(isLikely && levels.hasContrast)) return outcome;

  const { segments, consumed } = splitSegments(result.tokens, ids.timestampBegin, duration);
  const starts = options.word_timestamps ? alignTokens(result.attentions, encoded.frames) : null;
  for (const { start, end, from, to } of segments) {
    const tokens = result.tokens.slice(from, to);
    const text = model.text(tokens);
    if (start === end || text.trim() === "" || !levels.mayContainSound(start, end)) continue;
    const segment = {
      start,
      end,
      text,
      tokens,
      avg_logprob: result.avg_logprob,
      compression_ratio: result.compression_ratio,
      no_speech_prob: result.no_speech_prob,
      temperature: result.temperature,
      words: null,
    };
    if (options.word_timestamps) {
      const language = detected.language;
      segment.words = wordsOf(model, result, { from, to, starts, levels, segment, language, duration });
      segment.start = segment.words[0].start;
      segment.end = segment.words.at(-1).end;
    }
    outcome.segments.push(segment);
  }
  outcome.consumed = consumed;
  return outcome;
}

/** The requested language, or the most likely one: a single decoder step over the language tokens. */
async function languageOf(model, encoded, wanted) {
  const { languages, start } = model.tokens;
  if (languages.size === 0) return { language: "en", language_probability: 1, all_language_probs: null };
  if (wanted !== null && !languages.has(wanted)) {
    throw new AsrError("options", `This model does not support the language “${wanted}”.`);
  }
  if (wanted !== null) return { language: wanted, language_probability: 1, all_language_probs: null };
  const decoder = model.startDecoding(encoded);
  const { logits } = await decoder.step([start]);
  decoder.close();
  const ids = [...languages.values()];
  const probabilityOf = probabilities(logits, ids, { among: ids });
  const ranked = [...languages.keys()].map((code, i) => [code, probabilityOf[i]]).sort((a, b) => b[1] - a[1]);
  return { language: ranked[0][0], language_probability: ranked[0][1], all_language_probs: ranked };
}

function promptOf(model, language, { task, previous, initial_prompt }) {
  const { previous: startOfPrevious, start, languages, tasks } = model.tokens;
  const promptTokens = initial_prompt === null ? [] : model.tokenize(` ${initial_prompt.trim()}`);
  promptTokens.push(...previous);
  const prompt = promptTokens.length > 0 ? [startOfPrevious, ...promptTokens.slice(-PROMPT_TOKENS)] : [];
  prompt.push(start);
  if (tasks !== null) prompt.push(languages.get(language), tasks[task]);
  return prompt;
}

function wordsOf(model, result, { from, to, starts, levels, segment, language, duration }) {
  const textIndices = [];
  for (let i = from; i < to; i += 1) if (result.tokens[i] < model.tokens.end) textIndices.push(i);
  const groups = splitWords(
    textIndices.map((i) => result.tokens[i]),
    language,
    (tokens) => model.text(tokens),
  );
  let taken = 0;
  const words = groups.map(({ word, count }) => {
    const ownIndices = textIndices.slice(taken, taken + count);
    taken += count;
    const probability = ownIndices.reduce((sum, i) => sum + Math.exp(result.logprobs[i]), 0) / count;
    if (starts === null) return { start: null, end: null, word, probability };
    const attended = { start: starts[ownIndices[0]], end: starts[ownIndices.at(-1) + 1] ?? duration };
    return { ...levels.soundIn(attended.start, attended.end), word, probability };
  });
  return timedWords(words, segment);
}
