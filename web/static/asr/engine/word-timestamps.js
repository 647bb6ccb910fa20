/**
 * Words with start and end times: from the attention where available, otherwise interpolated and marked so.
 *
 * Source of the splitting: openai/whisper `tokenizer.py` and `timing.py` (spaces where the script has them,
 * punctuation joins its word); the limits on long words follow faster-whisper's `add_word_timestamps`.
 */

const UNSPACED = new Set(["zh", "ja", "th", "lo", "my", "yue"]);
const BEFORE = "\"'“¿([{-";
const AFTER = "\"'.。,，!！?？:：”)]}、";
const SENTENCE_END = ".。!！?？";
const LONGEST_MEDIAN_S = 0.7;
const REPLACEMENT = "\ufffd";

/** Group `tokens` into words. → [{word, count}]; `decode(tokens)` is the tokenizer's. */
export function splitWords(tokens, language, decode) {
  const letters = splitAtCharacters(tokens, decode);
  const words = UNSPACED.has(language) ? letters : splitAtSpaces(letters);
  return joinPunctuation(words);
}

/** The shortest groups of tokens that decode to whole characters. */
function splitAtCharacters(tokens, decode) {
  const whole = decode(tokens);
  const groups = [];
  let group = [];
  let offset = 0;
  for (const token of tokens) {
    group.push(token);
    const word = decode(group);
    const at = word.indexOf(REPLACEMENT);
    if (at >= 0 && whole[offset + at] !== REPLACEMENT) continue;
    groups.push({ word, count: group.length });
    offset += word.length;
    group = [];
  }
  if (group.length > 0) groups.push({ word: decode(group), count: group.length });
  return groups;
}

function splitAtSpaces(groups) {
  const words = [];
  for (const { word, count } of groups) {
    const isPunctuation = /^\s*[\p{P}\p{S}]+\s*$/u.test(word);
    if (words.length === 0 || word.startsWith(" ") || isPunctuation) words.push({ word, count });
    else {
      words.at(-1).word += word;
      words.at(-1).count += count;
    }
  }
  return words;
}

/** Join opening punctuation with the next word, all other punctuation with the previous one. */
function joinPunctuation(words) {
  const joined = [];
  let opening = null;
  for (const { word, count } of words) {
    const mark = word.trim();
    if (opening !== null) {
      opening.word += word;
      opening.count += count;
      if (!(mark !== "" && BEFORE.includes(mark))) opening = null;
    } else if (joined.length > 0 && mark !== "" && AFTER.includes(mark) && !word.startsWith(" ")) {
      joined.at(-1).word += word;
      joined.at(-1).count += count;
    } else {
      joined.push({ word, count });
      if (word.startsWith(" ") && mark !== "" && BEFORE.includes(mark)) opening = joined.at(-1);
    }
  }
  return joined;
}

/**
 * Complete the times of one segment's words. `words`: {word, probability, start, end}, times in seconds or null.
 * → the same with every start and end set; `interpolated: true` where they were estimated.
 */
export function timedWords(words, segment) {
  const timed = words.map((word) => {
    const isTimed = word.start !== null && word.end > word.start;
    return { ...word, ...(isTimed ? {} : { start: null, end: null, interpolated: true }) };
  });
  limitDurations(timed, segment);
  for (let from = 0; from < timed.length; from += 1) {
    if (timed[from].start !== null) continue;
    let to = from;
    while (to < timed.length && timed[to].start === null) to += 1;
    interpolate(timed, from, to, segment);
    from = to;
  }
  return timed;
}

/** Shorten words at the edges of a sentence or segment, where a pause is often counted as part of them. */
function limitDurations(words, segment) {
  const sure = words.filter(({ start }) => start !== null);
  if (sure.length === 0) return;
  const lengths = sure.map(({ start, end }) => end - start).sort((a, b) => a - b);
  const median = Math.min(LONGEST_MEDIAN_S, lengths[lengths.length >> 1]);
  for (let i = 1; i < sure.length; i += 1) {
    if (sure[i].end - sure[i].start <= 2 * median) continue;
    if (SENTENCE_END.includes(sure[i].word.at(-1))) sure[i].end = sure[i].start + 2 * median;
    else if (SENTENCE_END.includes(sure[i - 1].word.at(-1))) sure[i].start = sure[i].end - 2 * median;
  }
  const [first, last] = [sure[0], sure.at(-1)];
  if (segment.start < first.end && segment.start - 0.5 > first.start) {
    first.start = Math.max(0, Math.min(first.end - median, segment.start));
  }
  if (segment.end > last.start && segment.end + 0.5 < last.end) {
    last.end = Math.max(last.start + median, segment.end);
  }
}

/** Divide the time between the neighbours among words `from` to `to`, by length. */
function interpolate(words, from, to, segment) {
  let begin = from === 0 ? segment.start : words[from - 1].end;
  let end = to === words.length ? segment.end : words[to].start;
  let [first, last] = [from, to];
  if (end <= begin && to < words.length) [last, end] = [to + 1, words[to].end];
  if (end <= begin && from > 0) [first, begin] = [from - 1, words[from - 1].start];
  const lengths = words.slice(first, last).map(({ word }) => Math.max(1, word.trim().length));
  const total = lengths.reduce((sum, length) => sum + length, 0);
  let at = begin;
  for (let i = first; i < last; i += 1) {
    words[i].start = at;
    at += (Math.max(end - begin, 0) * lengths[i - first]) / total;
    words[i].end = at;
    words[i].interpolated = true;
  }
}
