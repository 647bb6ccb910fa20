"""Samples tokens inside a compiled function, where every parameter of every row is a number in an array.

It samples the same tokens as `pipeline.models.sampling` does with the same uniforms. There, the
host looks at the parameters and leaves out what no row uses; a compiled function cannot, and
always computes everything.
"""

from collections.abc import Mapping

import mlx.core as mx


class CompiledSampler:
    """Samples by the columns of a packed `SamplingBatch`, each `[w, columns]`."""

    def __init__(self, inputs: Mapping[str, mx.array], padding_id: int) -> None:
        self._inputs = inputs
        self._padding_id = padding_id

    def text(self, logits: mx.array) -> mx.array:
        """`[w, V]` → `[w]` integers."""
        inputs = self._inputs
        return self._sample(self._processed(logits), inputs["text_temperature"], inputs["text_top_k"], 0)

    def audio(self, logits: mx.array, codebook: int) -> mx.array:
        """The same, of one codebook."""
        inputs = self._inputs
        return self._sample(logits, inputs["audio_temperature"], inputs["audio_top_k"], 1 + codebook)

    def _processed(self, logits: mx.array) -> mx.array:
        """Text `logits [w, V]` with penalty and padding bias; rows without either are unchanged."""
        context, penalty = self._inputs["repetition_context"], self._inputs["repetition_penalty"]
        width, vocabulary = logits.shape
        # One column more than there are tokens, for the padding of the context.
        columns = mx.where(context < 0, vocabulary, context)
        zeros = mx.zeros((width, vocabulary + 1), mx.int32)
        repeated = mx.put_along_axis(zeros, columns, mx.array(1, mx.int32), axis=1)[:, :vocabulary] > 0
        penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
        logits = mx.where(repeated & (penalty != 1), penalised, logits)
        padding = mx.arange(vocabulary) == self._padding_id
        return mx.where(padding, logits + self._inputs["padding_bias"], logits)

    def _sample(self, logits: mx.array, temperature: mx.array, top_k: mx.array, column: int) -> mx.array:
        """One token for each row of `logits [w, V]` by `temperature, top_k [w, 1]` → `[w]`."""
        logits = logits.astype(mx.float32)
        vocabulary = logits.shape[-1]
        limited = (top_k > 0) & (top_k < vocabulary)
        rank = mx.where(limited, vocabulary - top_k, 0)  # rank 0, the smallest logit, keeps all
        threshold = mx.take_along_axis(mx.sort(logits, axis=-1), rank, axis=-1)
        kept = mx.where(logits >= threshold, logits, -mx.inf)
        random = temperature > 0
        relative = (kept - logits.max(axis=-1, keepdims=True)) / mx.where(random, temperature, 1)
        probabilities = mx.softmax(relative, axis=-1)
        # A parallel prefix sum may decrease from one entry to the next; impossible tokens are zeroed.
        cumulative = mx.where(probabilities > 0, mx.cumsum(probabilities, axis=-1), 0)
        uniform = self._inputs["uniforms"][:, column : column + 1]
        sampled = mx.argmax(cumulative > uniform * cumulative.max(axis=-1, keepdims=True), axis=-1)
        return mx.where(random[:, 0], sampled, mx.argmax(logits, axis=-1))
