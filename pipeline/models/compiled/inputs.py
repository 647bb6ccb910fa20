"""The inputs of a compiled call, packed into two arrays: one of integers, one of floats.

Every array made on the host is an allocation and, on a GPU, a transfer of its own; a step has a
dozen inputs. A `Layout` assigns columns to names: `pack` concatenates them on the host, `unpack`
splits them inside the compiled function, where that makes views only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.models.layers.attention import Positions, RotaryEmbedding, rope_table
from pipeline.models.layers.transformer import TransformerConfig, sinusoid

Numbers = npt.NDArray[np.number]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and numbers of columns, in order; what is packed by name is unpacked by name."""

    integers: Mapping[str, int]
    floats: Mapping[str, int]

    def pack(self, values: Mapping[str, Numbers]) -> tuple[mx.array, mx.array]:
        """`values`, each `[w, …]` with as many numbers per row as columns → `[w, I]` int32, `[w, F]` float32.

        Raises:
            ValueError: a value has another number of columns.
        """
        return _packed(self.integers, values, np.int32), _packed(self.floats, values, np.float32)

    def unpack(self, integers: mx.array, floats: mx.array) -> dict[str, mx.array]:
        """Each value by name, `[w, columns]`."""
        return _parts(self.integers, integers) | _parts(self.floats, floats)


def _packed(columns: Mapping[str, int], values: Mapping[str, Numbers], dtype: npt.DTypeLike) -> mx.array:
    width = len(values[next(iter(columns))])
    parts = [np.asarray(values[name], dtype).reshape(width, count) for name, count in columns.items()]
    return mx.array(np.concatenate(parts, axis=1))


def _parts(columns: Mapping[str, int], packed: mx.array) -> dict[str, mx.array]:
    ends = np.cumsum(list(columns.values())).tolist()
    return dict(zip(columns, mx.split(packed, ends[:-1], axis=1), strict=True))


@dataclass(frozen=True, slots=True)
class PositionInputs:
    """The position embeddings of `steps` positions per row, computed on the host in float64.

    A compiled function has float32 only, in which the angles of a day-long session would be off.
    """

    config: TransformerConfig
    steps: int

    @property
    def columns(self) -> dict[str, int]:
        """Their columns in a layout's floats."""
        kind, columns = self.config.positional_embedding, {}
        if kind in ("sin", "sin_rope"):
            columns["sinusoid"] = self.steps * self.config.d_model
        if kind not in ("sin", "none"):
            columns["rope"] = self.steps * self.config.head_dim
        return columns

    def values(self, positions: Positions) -> dict[str, Numbers]:
        """The values of these columns for `positions [w, T]`."""
        c, columns = self.config, self.columns
        values: dict[str, Numbers] = {}
        if "sinusoid" in columns:
            values["sinusoid"] = sinusoid(positions, c.d_model, c.max_period)
        if "rope" in columns:
            table = rope_table(positions, c.head_dim, c.max_period)
            values["rope"] = table.view(np.float32)
        return values

    def apply(self, x: mx.array, inputs: Mapping[str, mx.array]) -> tuple[mx.array, RotaryEmbedding | None]:
        """`apply_position_embedding` in a compiled function, to `x [n · w · T, D]`: n times the same rows."""
        width = len(x) // self.steps
        values = {
            name: mx.concatenate([inputs[name]] * (width // len(inputs[name]))) for name in self.columns
        }
        if "sinusoid" in values:
            x = x + values["sinusoid"].reshape(x.shape).astype(x.dtype)
        if "rope" not in values:
            return x, None
        table = values["rope"].view(mx.complex64).reshape(width, 1, self.steps, -1)
        return x, RotaryEmbedding(table, self.config.positional_embedding != "rope_concat")
