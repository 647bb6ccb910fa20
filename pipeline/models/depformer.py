"""The depth transformer: inside one step, one codebook after another, each with weights of its own.

Its past is the same step's earlier codebooks and nothing else, so nothing of it outlives
the step. What it hears and how its output becomes tokens: `lm`.
Source: Défossez et al. 2024, "Moshi", section 3.4.
"""

from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.layers.transformer import Layer, place


class Past(NamedTuple):
    """Keys and values of one layer for the codebooks so far, `[w, Hkv, k, Dh]`."""

    keys: mx.array
    values: mx.array


class Depformer(nn.Module):
    """Codebook by codebook equals all at once, because all at once is codebook by codebook."""

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.depformer_feedforward
        self.layers = [Layer(config.depformer, sizes) for _ in range(config.depformer.num_layers)]

    def step(
        self, x: mx.array, codebook: int, past: list[Past], marks: list[mx.array] | None = None
    ) -> tuple[mx.array, list[Past]]:
        """`x [w, D]` for `codebook`, after the `past` of the ones before (none: []) → `[w, D]`.

        To `marks` is added what the layers make of it.
        """
        which = self.config.weight_sets[codebook]
        x, rotation = place(x, np.array([[codebook]]), self.config.depformer)
        now = []
        for index, layer in enumerate(self.layers):
            queries, keys, values = layer.self_attn.heads(layer.norm1(x), len(x), rotation, which)
            if past:
                keys = mx.concatenate([past[index].keys, keys], axis=2)
                values = mx.concatenate([past[index].values, values], axis=2)
            now.append(Past(keys, values))
            seen = self._attend(queries, keys, values)
            x = layer.finish(x, layer.self_attn.merge(seen, which), which)
        if marks is not None:
            marks.append(x)
        return x, now

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """`queries [w, H, 1, Dh]` see all of `keys, values [w, Hkv, k, Dh]` → `[w, H, 1, Dh]`."""
        if values.shape == queries.shape:  # there is nothing to choose from
            return values
        scale = self.config.depformer.head_dim**-0.5
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
