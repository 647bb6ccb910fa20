/**
 * Temperature fallback: retry a repetitive or unlikely hypothesis at the next temperature, keep the best.
 *
 * Source: faster-whisper's `generate_with_fallback`; compression ratio as in openai/whisper (zlib).
 */

/**
 * `attempt(temperature)` → {avg_logprob, text, no_speech_prob, …}. → the accepted hypothesis, with `temperature`
 * and `compression_ratio`.
 */
export async function withFallback(attempt, options) {
  const { compression_ratio_threshold: ratioLimit, log_prob_threshold: probLimit } = options;
  const silenceThreshold = options.no_speech_threshold ?? Infinity;
  const results = [];
  for (const temperature of options.temperature) {
    const hypothesis = await attempt(temperature);
    const compression_ratio = await compressionRatio(hypothesis.text.trim());
    const result = { ...hypothesis, temperature, compression_ratio };
    results.push(result);
    const repeats = ratioLimit !== null && compression_ratio > ratioLimit;
    const isUnlikely = probLimit !== null && hypothesis.avg_logprob < probLimit;
    if ((!repeats && !isUnlikely) || (isUnlikely && hypothesis.no_speech_prob > silenceThreshold)) return result;
  }
  const isTerse = ({ compression_ratio }) => ratioLimit === null || compression_ratio <= ratioLimit;
  const notRepetitive = results.filter(isTerse);
  const candidates = notRepetitive.length > 0 ? notRepetitive : results;
  const best = candidates.reduce((a, b) => (b.avg_logprob > a.avg_logprob ? b : a));
  // Report the last temperature: it decides whether the next clip is conditioned on this text.
  return { ...best, temperature: results.at(-1).temperature };
}

/** UTF-8 size divided by zlib-compressed size. */
export async function compressionRatio(text) {
  const bytes = new TextEncoder().encode(text);
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return bytes.length / (await new Response(packed).arrayBuffer()).byteLength;
}
