/**
 * Decode one hypothesis: greedy, or sampled at a temperature; always terminates.
 *
 * Pure apart from `step`, which runs the model: the same audio, options and seed give the same text.
 * Source: openai/whisper `decoding.py` (greedy search, `avg_logprob` over the tokens and the end).
 */

/**
 * `step(tokens)` → {logits, attention} after the last of the new tokens; `first`: its result for the prompt.
 * `onToken(count)` is awaited after each token and may throw.
 * → {tokens, logprobs, attentions, avg_logprob}; `attentions` has one more entry, for the end token.
 */
export async function decode({ first, step, rules, end, temperature, maxTokens, random, onToken }) {
  const tokens = [];
  const logprobs = [];
  const attentions = [];
  let sum = 0;
  let output = first;
  for (;;) {
    const logits = Float32Array.from(output.logits);
    rules.apply(logits, tokens);
    const scale = logSumExp(logits);
    const token = temperature > 0 ? sample(logits, temperature, random) : argmax(logits);
    const logprob = logits[token] - scale;
    sum += logprob;
    attentions.push(output.attention);
    if (token === end) break;
    tokens.push(token);
    logprobs.push(logprob);
    await onToken(tokens.length);
    if (tokens.length === maxTokens) break;
    output = await step([token]);
  }
  return { tokens, logprobs, attentions, avg_logprob: sum / (tokens.length + 1) };
}

/** The probability of each of `tokens`, among all tokens or among those in `among`. */
export function probabilities(logits, tokens, { among = null } = {}) {
  const scale = logSumExp(among === null ? logits : Float32Array.from(among, (token) => logits[token]));
  return tokens.map((token) => Math.exp(logits[token] - scale));
}

/** A generator of random numbers from 0 to 1 (mulberry32). */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function argmax(logits) {
  let top = 0;
  for (let i = 1; i < logits.length; i += 1) if (logits[i] > logits[top]) top = i;
  return top;
}

function sample(logits, temperature, random) {
  const top = logits[argmax(logits)];
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < weights.length; i += 1) {
    left -= weights[i];
    if (left < 0) return i;
  }
  return argmax(logits);
}

/** log Σ exp. */
function logSumExp(logits) {
  const top = logits[argmax(logits)];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  return top + Math.log(sum);
}
