"""What a compiled call is told travels in two arrays, one of integers, one of floats.

Every array made on the host is an allocation, and on a GPU a transfer of its own; a step is
told a dozen things. A `Layout` says which columns are whose; `pack` puts them together on
the host, `unpack` takes them apart inside the graph, where that costs nothing but views.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.models.layers.attention import Positions, Rotation, turns
from pipeline.models.layers.transformer import TransformerConfig, sinusoid

Numbers = npt.NDArray[np.number]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the columns, and how many each has, in their order. What is packed comes out by name."""

    integers: Mapping[str, int]
    floats: Mapping[str, int]

    def pack(self, values: Mapping[str, Numbers]) -> tuple[mx.array, mx.array]:
        """`values`, each `[w, …]` with as many numbers a row as columns → `[w, I]` int32, `[w, F]` float32.

        Raises:
            ValueError: a value has another number of columns.
        """
        return _packed(self.integers, values, np.int32), _packed(self.floats, values, np.float32)

    def unpack(self, integers: mx.array, floats: mx.array) -> dict[str, mx.array]:
        """Each value again, `[w, columns]`."""
        return _parts(self.integers, integers) | _parts(self.floats, floats)


def _packed(columns: Mapping[str, int], values: Mapping[str, Numbers], dtype: npt.DTypeLike) -> mx.array:
    width = len(values[next(iter(columns))])
    parts = [np.asarray(values[name], dtype).reshape(width, count) for name, count in columns.items()]
    return mx.array(np.concatenate(parts, axis=1))


def _parts(columns: Mapping[str, int], packed: mx.array) -> dict[str, mx.array]:
    ends = np.cumsum(list(columns.values())).tolist()
    return dict(zip(columns, mx.split(packed, ends[:-1], axis=1), strict=True))


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """How `steps` positions a row reach a transformer: as numbers worked out on the host in float64.

    Inside a graph only float32 is to be had, in which the angles of a day-long session would be off.
    """

    config: TransformerConfig
    steps: int

    @property
    def columns(self) -> dict[str, int]:
        """What they take in a layout's floats."""
        way, columns = self.config.positional_embedding, {}
        if way in ("sin", "sin_rope"):
            columns["sinusoid"] = self.steps * self.config.d_model
        if way not in ("sin", "none"):
            columns["turns"] = self.steps * self.config.head_dim
        return columns

    def values(self, positions: Positions) -> dict[str, Numbers]:
        """Of `positions [w, T]`."""
        c, columns = self.config, self.columns
        values: dict[str, Numbers] = {}
        if "sinusoid" in columns:
            values["sinusoid"] = sinusoid(positions, c.d_model, c.max_period)
        if "turns" in columns:
            table = turns(positions, c.head_dim, c.max_period)
            values["turns"] = table.view(np.float32)
        return values

    def place(self, x: mx.array, told: Mapping[str, mx.array]) -> tuple[mx.array, Rotation | None]:
        """What `transformer.place` does, inside a graph, to `x [n · w · T, D]`: n times the same rows."""
        width = len(x) // self.steps
        there = {name: mx.concatenate([told[name]] * (width // len(told[name]))) for name in self.columns}
        if "sinusoid" in there:
            x = x + there["sinusoid"].reshape(x.shape).astype(x.dtype)
        if "turns" not in there:
            return x, None
        table = there["turns"].view(mx.complex64).reshape(width, 1, self.steps, -1)
        return x, Rotation(table, self.config.positional_embedding != "rope_concat")
