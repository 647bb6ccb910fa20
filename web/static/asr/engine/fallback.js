/**
 * A hypothesis that repeats itself or is not believed is tried again warmer; of those that fail, the best stands.
 *
 * Source: faster-whisper's `generate_with_fallback`; compression ratio as openai/whisper (zlib).
 */

/**
 * `attempt(temperature)` → {avg_logprob, text, no_speech_prob, …}; what stands, with `temperature` and
 * `compression_ratio`.
 */
export async function withFallback(attempt, options) {
  const { compression_ratio_threshold: ratioLimit, log_prob_threshold: probLimit } = options;
  const silence = options.no_speech_threshold ?? Infinity;
  const tried = [];
  for (const temperature of options.temperature) {
    const hypothesis = await attempt(temperature);
    const compression_ratio = await compressionRatio(hypothesis.text.trim());
    const result = { ...hypothesis, temperature, compression_ratio };
    tried.push(result);
    const repeats = ratioLimit !== null && compression_ratio > ratioLimit;
    const isUnlikely = probLimit !== null && hypothesis.avg_logprob < probLimit;
    if ((!repeats && !isUnlikely) || (isUnlikely && hypothesis.no_speech_prob > silence)) return result;
  }
  const terse = tried.filter(({ compression_ratio }) => ratioLimit === null || compression_ratio <= ratioLimit);
  const candidates = terse.length > 0 ? terse : tried;
  const best = candidates.reduce((a, b) => (b.avg_logprob > a.avg_logprob ? b : a));
  // The last temperature goes with it: whoever conditions on this text should know how it came about.
  return { ...best, temperature: tried.at(-1).temperature };
}

/** Bytes of UTF-8 for each byte that zlib makes of them. */
export async function compressionRatio(text) {
  const bytes = new TextEncoder().encode(text);
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return bytes.length / (await new Response(packed).arrayBuffer()).byteLength;
}
