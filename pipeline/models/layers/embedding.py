"""Tokens become vectors, and the token −1 becomes nothing at all."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import LayerNorm
from pipeline.models.layers.quantized import rows


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
            self.low_rank = Linear(low_rank, dim, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        """`[...]` int32 → `[..., D]`."""
        x = self._looked_up(mx.maximum(tokens, 0))
        x = mx.where(tokens[..., None] < 0, mx.zeros((), x.dtype), x)
        return self.low_rank(x) if self.projected else x

    def of_drawn(self, tokens: mx.array) -> mx.array:
        """The same for tokens that a model has drawn, of which none is −1."""
        x = self._looked_up(tokens)
        return self.low_rank(x) if self.projected else x

    @property
    def is_plain(self) -> bool:
        """Whether what a token becomes is a row of the table, as it stands there."""
        return not self.normed and not self.projected and "scales" not in self

    def _looked_up(self, tokens: mx.array) -> mx.array:
        x = rows(self, tokens)
        return self.norm(x) if self.normed else x


class Hearing:
    """The sum of what one token of each of several tables becomes, looked up at once.

    The tables are laid behind each other, once, and are from then on views of the whole: it
    costs no memory. What is not a plain table is looked up by itself.
    """

    def __init__(self, tables: Sequence[Embedding]) -> None:
        self._tables = tables
        self._whole: mx.array | None = None  # not evaluated yet
        if all(table.is_plain for table in tables):
            sizes = [len(table.weight) for table in tables]
            self._begins = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
            whole = self._whole = mx.concatenate([table.weight for table in tables])
            for table, begin, size in zip(tables, self._begins.tolist(), sizes, strict=True):
                table.weight = whole[begin : begin + size]

    def settle(self) -> None:
        """Lay the tables out now, on the thread whose weights they are."""
        if self._whole is not None:
            mx.eval(self._whole)

    def __call__(self, tokens: npt.NDArray[np.int32]) -> mx.array:
        """`[w, tables, T]`, −1 for nothing → `[w, T, D]`."""
        if self._whole is None:
            each = [table(mx.array(tokens[:, i])) for i, table in enumerate(self._tables)]
            return sum(each[1:], each[0])
        at = np.maximum(tokens, 0) + self._begins[:, None]
        heard = self._whole[mx.array(at)]  # [w, tables, T, D]
        if (tokens < 0).any():
            heard = mx.where(mx.array(tokens[..., None] >= 0), heard, mx.zeros((), heard.dtype))
        return heard.sum(axis=1)

    def of_arrays(self, tokens: mx.array) -> mx.array:
        """The same where only the device knows the tokens, and whether one of them is −1."""
        if self._whole is None:
            each = [table(tokens[:, i]) for i, table in enumerate(self._tables)]
            return sum(each[1:], each[0])
        heard = self._whole[mx.maximum(tokens, 0) + mx.array(self._begins)[:, None]]  # [w, tables, T, D]
        return mx.where(tokens[..., None] >= 0, heard, mx.zeros((), heard.dtype)).sum(axis=1)
