"""Causal attention over rings: each lane keeps the keys and values of its last `context` positions.

What belongs here: the projections, the rotation, where in a ring a position is written
and which slots a query may read. A ring is never gathered: keys and values are written
at `(row, slot)` in place, and each lane attends to a view of its own row. What a step
needs beside the rings is the same in every layer, so it is worked out once per call,
on the host, as an `AttentionPlan`. The plan of a compiled call, whose lengths are arrays:
`compiled_attention`. Residuals, norms and feed-forward: `transformer`.
"""

import itertools
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from pipeline.models.layers.linear import Linear

Positions = npt.NDArray[np.int64]
Lanes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotary table (Su et al. 2021): unit complex numbers `turns [w, 1, T, D/2]`.

    `interleaved`: a pair is two neighbours; else it is one of each half of a head.
    """

    turns: mx.array
    interleaved: bool

    @classmethod
    def at(cls, positions: Positions, head_dim: int, max_period: float, *, interleaved: bool) -> "Rotation":
        """Turn pair i at position p by `p · max_period^(-2i/D)`; `positions [w, T]`.

        The angles are taken in float64 on the host: in float32 a position of a day-long
        session times a frequency would be off by whole radians.
        """
        return cls(mx.array(turns(positions, head_dim, max_period)), interleaved)

    def __call__(self, x: mx.array) -> mx.array:
        """Rotate `x [w, H, T, D]` in float32; the dtype stays."""
        full = x.astype(mx.float32)
        if self.interleaved:  # two neighbours are a complex number as they lie there
            return (full.view(mx.complex64) * self.turns).view(mx.float32).astype(x.dtype)
        real, imaginary = mx.split(full, 2, axis=-1)
        cos, sin = mx.real(self.turns), mx.imag(self.turns)
        turned = [real * cos - imaginary * sin, real * sin + imaginary * cos]
        return mx.concatenate(turned, axis=-1).astype(x.dtype)


def turns(positions: Positions, head_dim: int, max_period: float) -> npt.NDArray[np.complex64]:
    """The table of a `Rotation` at `positions [w, T]`: `[w, 1, T, D/2]`."""
    frequencies = max_period ** (-np.arange(head_dim // 2, dtype=np.float64) * 2 / head_dim)
    angles = positions[:, None, :, None] * frequencies  # [w, 1, T, D/2]
    table: npt.NDArray[np.complex64] = np.exp(1j * angles).astype(np.complex64)
    return table


class Plan(Protocol):
    """What a layer needs to know of a call: where its positions are written, and what they see."""

    @property
    def width(self) -> int:
        """How many rows of the state a call advances."""

    def write(self, ring: mx.array, fresh: mx.array) -> mx.array:
        """`ring [rows, H, context, D]` with `fresh [w, H, T, D]` in it."""

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """`queries [w, H, T, D]` and the rings, written already → `[w, H, T, D]`."""


@dataclass(frozen=True, slots=True)
class Look:
    """Neighbours in the batch that are neighbours in the rings, too, and have as many slots filled.

    `mask [n, 1, T, filled]` bool, or None where one query sees everything that is filled.
    """

    places: slice
    rows: slice
    filled: int
    mask: mx.array | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Where this call's `T` positions go in the rings of `width` lanes, and what they may see.

    `written`: row, head and slot of what is written, each `[w, H, T]` int32; or, of one lane whose
    slots lie one behind the other, where the first is, `[4]`. `looks`: who attends to what.
    """

    width: int
    written: tuple[mx.array, mx.array, mx.array] | mx.array
    looks: tuple[Look, ...]

    @classmethod
    def of(cls, starts: Positions, lanes: Lanes, steps: int, context: int, heads: int) -> "AttentionPlan":
        """Write `steps` positions from `starts [w]` on, then let each see its causal window.

        `heads`: those of keys and values. All positions of a call are written before any attends.
        With a ring of exactly `context` slots the first of two queries has therefore lost the
        oldest key of its window, overwritten by its neighbour; the official implementation does
        the same, and models were trained and published with it.

        Raises:
            ValueError: more positions than slots, so that a call would overwrite its own keys.
        """
        if steps > context:
            raise ValueError(f"{steps} positions do not fit a ring of {context}")
        queries = starts[:, None] + np.arange(steps)  # [w, T]
        filled = np.minimum(queries[:, -1] + 1, context)
        apart = np.flatnonzero((np.diff(lanes) != 1) | (np.diff(filled) != 0)) + 1
        looks = []
        for begin, end in itertools.pairwise([0, *apart.tolist(), len(lanes)]):
            row, count = int(lanes[begin]), int(filled[begin])
            mask = None if steps == 1 else mx.array(_visible(queries[begin:end], count, context))
            looks.append(Look(slice(begin, end), slice(row, row + end - begin), count, mask))
        return cls(len(lanes), _places(lanes, (queries % context).astype(np.int32), heads), tuple(looks))

    def write(self, ring: mx.array, fresh: mx.array) -> mx.array:
        """Put `fresh [w, H, T, D]` at the plan's slots of `ring [rows, H, context, D]`.

        The argument still holds the old values. Once nothing refers to it any more when the
        result is evaluated, MLX writes into its memory, and no copy is made.
        """
        fresh = fresh.astype(ring.dtype)
        if isinstance(self.written, mx.array):  # a fraction of what a scatter costs
            return mx.slice_update(ring, fresh, self.written, (0, 1, 2, 3))
        written = mx.array(ring)
        written[self.written] = fresh
        return written

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Let each lane's `queries [w, H, T, D]` see the filled slots of its own row of the rings.

        On views, whose products are taken matrix by matrix: a row's result cannot depend on its
        neighbours, and a session of two seconds does not pay for a ring of four minutes.
        """
        scale = queries.shape[-1] ** -0.5
        seen = [
            mx.fast.scaled_dot_product_attention(
                queries[look.places],
                keys[look.rows, :, : look.filled],
                values[look.rows, :, : look.filled],
                scale=scale,
                mask=look.mask,
            )
            for look in self.looks
        ]
        return seen[0] if len(seen) == 1 else mx.concatenate(seen, axis=0)


def _visible(queries: Positions, filled: int, context: int) -> npt.NDArray[np.bool_]:
    """Which filled slots each of `queries [n, T]` may see, all of them written: `[n, 1, T, filled]`."""
    last = queries[:, -1:]
    held = last - (last - np.arange(filled)) % context  # the position in each slot
    visible: npt.NDArray[np.bool_] = held[:, None] <= queries[:, :, None]
    return visible[:, None]


def _places(
    lanes: Lanes, slots: npt.NDArray[np.int32], heads: int
) -> tuple[mx.array, mx.array, mx.array] | mx.array:
    """`written` of a plan for `slots [w, T]`: spread out here, or every layer would do it for itself."""
    width, steps = slots.shape
    if width == 1 and slots[0, -1] - slots[0, 0] == steps - 1:
        return mx.array(np.array([lanes[0], 0, slots[0, 0], 0], np.int32))
    head = np.arange(heads, dtype=np.int32)[:, None]
    row, head, slot = np.broadcast_arrays(lanes[:, None, None], head, slots[:, None])
    return mx.array(row), mx.array(head), mx.array(slot)


def attend_whole(queries: mx.array, keys: mx.array, values: mx.array, context: int | None) -> mx.array:
    """Let every position see itself and the `context - 1` before it (all, where None).

    `queries [B, H, T, D]`, `keys, values [B, Hkv, T, D]` → `[B, H, T, D]`.
    """
    time = mx.arange(queries.shape[2])
    age = time[:, None] - time
    visible = age >= 0
    if context is not None:
        visible = visible & (age < context)
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=queries.shape[-1] ** -0.5, mask=visible
    )


class Projections(nn.Module):
    """The four products around one layer's attention, in `sets` variants (one per depformer step)."""

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, sets: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        width = d_model // num_heads * (num_heads + 2 * num_kv_heads)
        self.in_projs = [Linear(d_model, width, bias=False) for _ in range(sets)]
        self.out_projs = [Linear(d_model, d_model, bias=False) for _ in range(sets)]

    def heads(
        self, x: mx.array, width: int, rotation: Rotation | None, which: int = 0
    ) -> tuple[mx.array, mx.array, mx.array]:
        """`x [w · T, D]` → queries `[w, H, T, Dh]`, keys and values `[w, Hkv, T, Dh]`."""
        rotated = self.num_heads + self.num_kv_heads
        # Packed along the width as all queries, all keys, all values.
        heads = _apart(self.in_projs[which](x), width, rotated + self.num_kv_heads)
        if rotation is None:
            queries, keys, values = mx.split(heads, [self.num_heads, rotated], axis=1)
            return queries, keys, values
        turned, values = mx.split(heads, [rotated], axis=1)
        queries, keys = mx.split(rotation(turned), [self.num_heads], axis=1)
        return queries, keys, values

    def merge(self, heads: mx.array, which: int = 0) -> mx.array:
        """`heads [w, H, T, Dh]` → `[w · T, D]`."""
        width, _, steps, _ = heads.shape
        # Of one position, as it lies there.
        rows = heads if steps == 1 else heads.swapaxes(1, 2)
        return self.out_projs[which](rows.reshape(width * steps, -1))


def _apart(packed: mx.array, width: int, heads: int) -> mx.array:
    """`packed [w · T, heads · Dh]` → `[w, heads, T, Dh]`."""
    steps = len(packed) // width
    if steps == 1:
        return packed.reshape(width, heads, 1, -1)
    return packed.reshape(width, steps, heads, -1).swapaxes(1, 2)
