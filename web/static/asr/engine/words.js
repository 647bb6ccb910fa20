/**
 * Every word has a start and an end: from the attention where it shows them, else a share, marked as such.
 *
 * Source of the splitting: openai/whisper `tokenizer.py` and `timing.py` (spaces where the script has them,
 * punctuation with its word); the limits on long words follow faster-whisper's `add_word_timestamps`.
 */

const UNSPACED = new Set(["zh", "ja", "th", "lo", "my", "yue"]);
const BEFORE = "\"'“¿([{-";
const AFTER = "\"'.。,，!！?？:：”)]}、";
const SENTENCE_END = ".。!！?？";
const LONGEST_MEDIAN_S = 0.7;
const BROKEN = "\ufffd";

/** [{word, count}]: which of `tokens` make each word; `decode(tokens)` is the tokenizer's. */
export function splitWords(tokens, language, decode) {
  const letters = splitAtLetters(tokens, decode);
  const words = UNSPACED.has(language) ? letters : atSpaces(letters);
  return punctuated(words);
}

/** The shortest groups of tokens that are whole characters. */
function splitAtLetters(tokens, decode) {
  const whole = decode(tokens);
  const groups = [];
  let group = [];
  let offset = 0;
  for (const token of tokens) {
    group.push(token);
    const word = decode(group);
    const at = word.indexOf(BROKEN);
    if (at >= 0 && whole[offset + at] !== BROKEN) continue;
    groups.push({ word, count: group.length });
    offset += word.length;
    group = [];
  }
  if (group.length > 0) groups.push({ word: decode(group), count: group.length });
  return groups;
}

function atSpaces(groups) {
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

/** Opening marks go to the word behind them, all others to the word before. */
function punctuated(words) {
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
 * The words of one segment. `words` {word, probability, start, end} with times or null, in clip seconds;
 * → the same with every start and end, `interpolated: true` where they are a share of what is around.
 */
export function timedWords(words, segment) {
  const timed = words.map((word) => {
    const isTimed = word.start !== null && word.end > word.start;
    return { ...word, ...(isTimed ? {} : { start: null, end: null, interpolated: true }) };
  });
  limit(timed, segment);
  for (let from = 0; from < timed.length; from += 1) {
    if (timed[from].start !== null) continue;
    let to = from;
    while (to < timed.length && timed[to].start === null) to += 1;
    share(timed, from, to, segment);
    from = to;
  }
  return timed;
}

/** Words at the edges of a sentence or segment, where a pause is easily taken for a part of them. */
function limit(words, segment) {
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

/** Words `from` to `to` share, by their lengths, the time that the words around them leave. */
function share(words, from, to, segment) {
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
