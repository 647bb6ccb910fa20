"""Tokens become vectors, and the token −1 becomes nothing at all."""

import mlx.core as mx
from mlx import nn

from pipeline.models.quantized import rows
from pipeline.models.transformer import LayerNorm


class Embedding(nn.Module):
    """A table, optionally normed, optionally narrow with a projection behind it.

    Token −1 means that there is no input: it adds exactly zero.
    """

    def __init__(self, tokens: int, dim: int, *, normed: bool = False, low_rank: int | None = None) -> None:
        super().__init__()
        self.weight = mx.random.normal((tokens, low_rank or dim)) * dim**-0.5
        self.normed = normed
        if normed:
            self.norm = LayerNorm(low_rank or dim, in_f32=False)
        self.projected = low_rank is not None
        if low_rank is not None:
            self.low_rank = nn.Linear(low_rank, dim, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        """`[w, T]` int32 → `[w, T, D]`."""
        x = rows(self, mx.maximum(tokens, 0))
        if self.normed:
            x = self.norm(x)
        x = mx.where(tokens[..., None] < 0, mx.zeros((), x.dtype), x)
        return self.low_rank(x) if self.projected else x
