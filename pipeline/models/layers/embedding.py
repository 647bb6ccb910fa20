"""Token embeddings; token −1 stands for no input and adds exactly zero."""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import LayerNorm
from pipeline.models.layers.quantized import rows


class Embedding(nn.Module):
    """An embedding table, optionally normed, optionally low-rank with a projection behind it."""

    def __init__(self, tokens: int, dim: int, *, normed: bool = False, low_rank: int | None = None) -> None:
        super().__init__()
        self.weight = mx.random.normal((tokens, low_rank or dim)) * dim**-0.5
        self.normed = normed
        if normed:
            self.norm = LayerNorm(low_rank or dim, in_f32=False)
        self.widens = False  # whether weights are stored in fewer bits than is computed in
        self.projected = low_rank is not None
        if low_rank is not None:
            self.low_rank = Linear(low_rank, dim, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        """`[...]` int32 → `[..., D]`."""
        x = self._lookup(mx.maximum(tokens, 0))
        x = mx.where(tokens[..., None] < 0, mx.zeros((), x.dtype), x)
        return self.low_rank(x) if self.projected else x

    def embed_sampled(self, tokens: mx.array) -> mx.array:
        """`[...]` → `[..., D]` for sampled tokens, of which none is −1."""
        x = self._lookup(tokens)
        return self.low_rank(x) if self.projected else x

    @property
    def is_plain(self) -> bool:
        """Whether a token's vector is a row of the table: not quantized, normed or projected."""
        return not self.normed and not self.projected and "scales" not in self

    def _lookup(self, tokens: mx.array) -> mx.array:
        x = rows(self, tokens, mx.float32 if self.widens else None)
        return self.norm(x) if self.normed else x


class InputEmbedding(Protocol):
    """The sum of one token's vector from each of several tables; −1 adds zero."""

    def __call__(self, tokens: npt.NDArray[np.int32]) -> mx.array:
        """`[w, tables, T]` on the host → `[w, T, D]`."""

    def embed_arrays(self, tokens: mx.array) -> mx.array:
        """The same for tokens on the device."""


class FusedEmbedding:
    """The sum of one token's vector from each of several tables, gathered at once.

    Plain tables are concatenated once and become views of the result, which takes no further
    memory. If one of them is not plain, or without `fuse`, each is looked up separately.
    """

    def __init__(self, tables: Sequence[Embedding], *, fuse: bool = True) -> None:
        self._tables = tables
        self._fused: mx.array | None = None  # not evaluated yet
        if fuse and all(table.is_plain for table in tables):
            sizes = [len(table.weight) for table in tables]
            self._begins = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
            fused = self._fused = mx.concatenate([table.weight for table in tables])
            for table, begin, size in zip(tables, self._begins.tolist(), sizes, strict=True):
                table.weight = fused[begin : begin + size]

    def materialize(self) -> None:
        """Evaluate the concatenated tables now, on the thread that loads the weights."""
        if self._fused is not None:
            mx.eval(self._fused)

    def __call__(self, tokens: npt.NDArray[np.int32]) -> mx.array:
        """`[w, tables, T]` on the host, −1 for no input → `[w, T, D]`."""
        if self._fused is None:
            each = [table(mx.array(tokens[:, i])) for i, table in enumerate(self._tables)]
            return sum(each[1:], each[0])
        indices = np.maximum(tokens, 0) + self._begins[:, None]
        vectors = self._fused[mx.array(indices)]  # [w, tables, T, D]
        if (tokens < 0).any():
            vectors = mx.where(mx.array(tokens[..., None] >= 0), vectors, mx.zeros((), vectors.dtype))
        return vectors.sum(axis=1)

    def embed_arrays(self, tokens: mx.array) -> mx.array:
        """The same for tokens on the device, where any of them may be −1."""
        if self._fused is None:
            each = [table(tokens[:, i]) for i, table in enumerate(self._tables)]
            return sum(each[1:], each[0])
        vectors = self._fused[mx.maximum(tokens, 0) + mx.array(self._begins)[:, None]]  # [w, tables, T, D]
        return mx.where(tokens[..., None] >= 0, vectors, mx.zeros((), vectors.dtype)).sum(axis=1)
