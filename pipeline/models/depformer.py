"""The depth transformer: within one step, one codebook after another, each with weights of its own.

It attends to the earlier codebooks of the same step and nothing else, so its KV cache lasts for
one step. `sample_codes` samples an agent frame with it; the weights around it (input projections,
embeddings of the previous code, output layers) belong to `lm`, how one code is drawn to `sampling`.
Source: Défossez et al. 2024, "Moshi", section 3.4.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from mlx import nn

from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.evaluation import EvalSchedule
from pipeline.models.layers.transformer import TransformerLayer, apply_position_embedding
from pipeline.models.sampling import Sampler, SamplingBatch


class KVCache(NamedTuple):
    """Keys and values of one layer for the codebooks so far, `[w, Hkv, k, Dh]`."""

    keys: mx.array
    values: mx.array


Predict = Callable[[int, mx.array, list[KVCache]], tuple[mx.array, list[KVCache]]]


class DepformerKernel(Protocol):
    """Samples all tokens of a step at once."""

    def sample(
        self, context: mx.array, batch: SamplingBatch, codebooks: int, cfg_coef: float
    ) -> tuple[mx.array, mx.array]:
        """Text `[w]` and codes `[w, codebooks]`.

        `context [w, D]`, with guidance `[2w, D]`: the temporal transformer's output.
        """


def sample_codes(text: mx.array, predict: Predict, sampler: Sampler, codebooks: int) -> mx.array:
    """Sample the first `codebooks` codes of a step, each given the one before it → `[w, codebooks]`.

    `text [w]` is the step's text token, which the first code is given. `predict(codebook, previous, cache)`
    returns the logits `[w, card]` of one codebook, and the cache for the next.
    """
    token, cache = text, list[KVCache]()
    codes = []
    for codebook in range(codebooks):
        logits, cache = predict(codebook, token, cache)
        token = sampler.audio(logits, codebook)
        codes.append(token)
    return mx.stack(codes, axis=1)


class Depformer(nn.Module):
    """Predicts the codebooks of one step in their order; teacher forcing runs codebook by codebook, too."""

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.depformer_feedforward
        self.layers = [TransformerLayer(config.depformer, sizes) for _ in range(config.depformer.num_layers)]
        self.kernel: DepformerKernel | None = None  # see `models.native`

    def step(
        self, x: mx.array, codebook: int, cache: list[KVCache], schedule: EvalSchedule | None = None
    ) -> tuple[mx.array, list[KVCache]]:
        """`x [w, D]` for `codebook`, with the `cache` of the earlier ones ([] for the first) → `[w, D]`.

        `schedule` gets the output.
        """
        weight_set = self.config.weight_sets[codebook]
        x, rope = apply_position_embedding(x, np.array([[codebook]]), self.config.depformer)
        updated = []
        for index, layer in enumerate(self.layers):
            queries, keys, values = layer.self_attn.project(layer.norm1(x), len(x), rope, weight_set)
            if cache:
                keys = mx.concatenate([cache[index].keys, keys], axis=2)
                values = mx.concatenate([cache[index].values, values], axis=2)
            updated.append(KVCache(keys, values))
            attended = self._attend(queries, keys, values)
            x = layer.feed_forward(x, layer.self_attn.merge(attended, weight_set), weight_set)
        if schedule is not None:
            schedule.add(x)
        return x, updated

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """`queries [w, H, 1, Dh]` over all of `keys, values [w, Hkv, k, Dh]`, unmasked → `[w, H, 1, Dh]`."""
        if values.shape == queries.shape:  # a single position: its softmax weight is 1
            return values
        scale = self.config.depformer.head_dim**-0.5
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
