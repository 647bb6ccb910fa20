/**
 * One clip, up to 30 s of sound, becomes segments; nothing of it is remembered by the worker.
 *
 * The order is faster-whisper's: language, prompt, hypotheses, silence, segments, words. Times are seconds in
 * the clip.
 */

import { alignTokens } from "./alignment.js";
import { decode, probabilities, seeded } from "./decoding.js";
import { withFallback } from "./fallback.js";
import { Rules } from "./logit-rules.js";
import { splitSegments } from "./segments.js";
import { Trouble } from "../errors.js";
import { splitWords, timedWords } from "./words.js";

const RATE_HZ = 16_000;
const PROMPT_TOKENS = 223; // half of the decoder's positions, less the mark before them

/**
 * `options` are `readOptions`' with `previous` (tokens of what was said before). `heed(count)` is awaited after
 * each token. → {segments, consumed, language, language_probability, all_language_probs, temperature}.
 */
export async function hearClip(model, samples, options, heed) {
  const duration = samples.length / RATE_HZ;
  const heard = await model.listen(samples);
  await heed(0);
  const spoken = await languageOf(model, heard, options.language);
  const { tokens: ids } = model;
  const prompt = promptOf(model, spoken.language, options);
  const rules = new Rules(ids, { maxInitialTimestamp: options.max_initial_timestamp });

  const attempt = async (temperature) => {
    const speech = model.speak(heard);
    try {
      const first = await speech.step(prompt);
      const [no_speech_prob] = probabilities(first.rowAt(prompt.indexOf(ids.start)), [ids.noSpeech]);
      const said = await decode({
        first,
        step: (tokens) => speech.step(tokens),
        rules,
        end: ids.end,
        temperature,
        limit: Math.min(options.max_new_tokens, model.positions - prompt.length),
        random: seeded(samples.length),
        heed,
      });
      return { ...said, no_speech_prob, text: model.text(said.tokens) };
    } finally {
      speech.close();
    }
  };

  const result = await withFallback(attempt, options);
  heard.states.dispose();
  const outcome = { ...spoken, temperature: result.temperature, segments: [], consumed: duration };
  const { no_speech_threshold: silence, log_prob_threshold: sure } = options;
  const isSilence = silence !== null && result.no_speech_prob > silence;
  if (isSilence && !(sure !== null && result.avg_logprob > sure)) return outcome;

  const { segments, consumed } = splitSegments(result.tokens, ids.timestampBegin, duration);
  const starts = options.word_timestamps ? alignTokens(result.attentions, heard.frames) : null;
  for (const { start, end, from, to } of segments) {
    const tokens = result.tokens.slice(from, to);
    const text = model.text(tokens);
    if (start === end || text.trim() === "") continue;
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
      segment.words = wordsOf(model, result, { from, to, starts, segment, language: spoken.language, duration });
      segment.start = segment.words[0].start;
      segment.end = segment.words.at(-1).end;
    }
    outcome.segments.push(segment);
  }
  outcome.consumed = consumed;
  return outcome;
}

/** The language asked for, or the likeliest: one step from the start of a transcript, over the languages alone. */
async function languageOf(model, heard, wanted) {
  const { languages, start } = model.tokens;
  if (languages.size === 0) return { language: "en", language_probability: 1, all_language_probs: null };
  if (wanted !== null && !languages.has(wanted)) {
    throw new Trouble("options", `This model does not know the language ${wanted}.`);
  }
  if (wanted !== null) return { language: wanted, language_probability: 1, all_language_probs: null };
  const speech = model.speak(heard);
  const { logits } = await speech.step([start]);
  speech.close();
  const ids = [...languages.values()];
  const found = probabilities(logits, ids, { among: ids });
  const ranked = [...languages.keys()].map((code, i) => [code, found[i]]).sort((a, b) => b[1] - a[1]);
  return { language: ranked[0][0], language_probability: ranked[0][1], all_language_probs: ranked };
}

function promptOf(model, language, { task, previous, initial_prompt }) {
  const { previous: mark, start, languages, tasks } = model.tokens;
  const before = initial_prompt === null ? [] : model.spell(` ${initial_prompt.trim()}`);
  before.push(...previous);
  const prompt = before.length > 0 ? [mark, ...before.slice(-PROMPT_TOKENS)] : [];
  prompt.push(start);
  if (tasks !== null) prompt.push(languages.get(language), tasks[task]);
  return prompt;
}

function wordsOf(model, result, { from, to, starts, segment, language, duration }) {
  const places = [];
  for (let i = from; i < to; i += 1) if (result.tokens[i] < model.tokens.end) places.push(i);
  const groups = splitWords(
    places.map((i) => result.tokens[i]),
    language,
    (tokens) => model.text(tokens),
  );
  let taken = 0;
  const words = groups.map(({ word, count }) => {
    const own = places.slice(taken, taken + count);
    taken += count;
    const probability = own.reduce((sum, i) => sum + Math.exp(result.logprobs[i]), 0) / count;
    const start = starts?.[own[0]] ?? null;
    const end = starts === null ? null : (starts[own.at(-1) + 1] ?? duration);
    return { start, end, word, probability };
  });
  return timedWords(words, segment);
}
