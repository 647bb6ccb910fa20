/**
 * One hypothesis: the likeliest token again and again, or a draw at a temperature; it always ends.
 *
 * Pure but for `step`, which runs the model: the same sound, options and seed give the same text.
 * Source: openai/whisper `decoding.py` (greedy search, `avg_logprob` over the tokens and the end).
 */

/**
 * `step(tokens)` takes the tokens that are new and gives {logits, attention}, those after the last of them;
 * `first` is what it gave for the prompt. `heed()` is awaited after each token and may throw.
 * → {tokens, logprobs, attentions, avg_logprob}: attentions has one more, that of the end.
 */
export async function decode({ first, step, rules, end, temperature, limit, random, heed }) {
  const tokens = [];
  const logprobs = [];
  const attentions = [];
  let sum = 0;
  let seen = first;
  for (;;) {
    const logits = Float32Array.from(seen.logits);
    rules.apply(logits, tokens);
    const scale = normalizer(logits);
    const token = temperature > 0 ? draw(logits, temperature, random) : best(logits);
    const logprob = logits[token] - scale;
    sum += logprob;
    attentions.push(seen.attention);
    if (token === end) break;
    tokens.push(token);
    logprobs.push(logprob);
    await heed(tokens.length);
    if (tokens.length === limit) break;
    seen = await step([token]);
  }
  return { tokens, logprobs, attentions, avg_logprob: sum / (tokens.length + 1) };
}

/** The probability of each of `tokens` among all, or among themselves alone. */
export function probabilities(logits, tokens, { among = null } = {}) {
  const scale = normalizer(among === null ? logits : Float32Array.from(among, (token) => logits[token]));
  return tokens.map((token) => Math.exp(logits[token] - scale));
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function best(logits) {
  let top = 0;
  for (let i = 1; i < logits.length; i += 1) if (logits[i] > logits[top]) top = i;
  return top;
}

function draw(logits, temperature, random) {
  const top = logits[best(logits)];
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < weights.length; i += 1) {
    left -= weights[i];
    if (left < 0) return i;
  }
  return best(logits);
}

/** log Σ exp. */
function normalizer(logits) {
  const top = logits[best(logits)];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  return top + Math.log(sum);
}
