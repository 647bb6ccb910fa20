"""Causal attention over rings: each lane keeps the keys and values of its last `context` positions.

What belongs here: the projections, the rotary embedding, which slot of a ring a position is
written to and which slots a query may read. A ring is never gathered: keys and values are
written at `(row, slot)` in place, and each lane attends to a view of its own row. What a call
needs besides the rings is the same in every layer, so it is computed once per call, on the
host, as an `AttentionMetadata`. The same for a compiled call, whose lengths are arrays:
`pipeline.models.compiled.attention`. Residuals, norms and feed-forward: `transformer`.
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
class RotaryEmbedding:
    """Rotary position embedding (Su et al. 2021) for one call: `table [w, 1, T, D/2]`, unit complex numbers.

    `interleaved`: a pair is two adjacent numbers; otherwise one number of each half of a head.
    """

    table: mx.array
    interleaved: bool

    @classmethod
    def at(
        cls, positions: Positions, head_dim: int, max_period: float, *, interleaved: bool
    ) -> "RotaryEmbedding":
        """The embedding that rotates pair i at position p by `p · max_period^(-2i/D)`; `positions [w, T]`.

        The angles are computed in float64 on the host: in float32 a position of a day-long
        session times a frequency would be off by whole radians.
        """
        return cls(mx.array(rope_table(positions, head_dim, max_period)), interleaved)

    def __call__(self, x: mx.array) -> mx.array:
        """Rotate `x [w, H, T, D]` in float32; the dtype stays."""
        full = x.astype(mx.float32)
        if self.interleaved:  # two adjacent numbers are already a complex number in memory
            return (full.view(mx.complex64) * self.table).view(mx.float32).astype(x.dtype)
        real, imaginary = mx.split(full, 2, axis=-1)
        cos, sin = mx.real(self.table), mx.imag(self.table)
        rotated = [real * cos - imaginary * sin, real * sin + imaginary * cos]
        return mx.concatenate(rotated, axis=-1).astype(x.dtype)


def rope_table(positions: Positions, head_dim: int, max_period: float) -> npt.NDArray[np.complex64]:
    """The table of a `RotaryEmbedding` at `positions [w, T]`: `[w, 1, T, D/2]`."""
    frequencies = max_period ** (-np.arange(head_dim // 2, dtype=np.float64) * 2 / head_dim)
    angles = positions[:, None, :, None] * frequencies  # [w, 1, T, D/2]
    table: npt.NDArray[np.complex64] = np.exp(1j * angles).astype(np.complex64)
    return table


class CacheAttention(Protocol):
    """How a layer writes to and reads from the cache in one call, compiled or not."""

    @property
    def width(self) -> int:
        """How many rows of the cache the call advances."""

    def write(self, ring: mx.array, fresh: mx.array) -> mx.array:
        """`ring [rows, H, context, D]` with `fresh [w, H, T, D]` written to its slots."""

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """`queries [w, H, T, D]` over rings that have been written → `[w, H, T, D]`."""


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """Adjacent rows of the batch that are also adjacent in the rings and have equally many slots filled.

    They attend in one call, on a view. `mask [n, 1, T, seq_len]` bool, or None where the one
    query may read every filled slot.
    """

    batch: slice
    rows: slice
    seq_len: int
    mask: mx.array | None


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """Where the `T` positions of one call go in the rings of `width` lanes, and what they may read.

    `slot_mapping`: row, head and slot of each position, each `[w, H, T]` int32; for a single lane
    whose slots are consecutive, the index of the first instead, `[4]`.
    """

    width: int
    slot_mapping: tuple[mx.array, mx.array, mx.array] | mx.array
    spans: tuple[AttentionSpan, ...]

    @classmethod
    def of(
        cls,
        starts: Positions,
        lanes: Lanes,
        steps: int,
        context: int,
        heads: int,
        *,
        pinned: Positions | None = None,
    ) -> "AttentionMetadata":
        """Write `steps` positions from `starts [w]` on, then let each attend to its causal window.

        `heads`: the number of key and value heads. `pinned [w]`: see `ring_slots`; where a row has pinned
        positions, `steps` is 1. All positions of a call are written before any
        of them attends. With a ring of exactly `context` slots, the first of two queries has
        therefore lost the oldest key of its window, overwritten by the second; the official
        implementation does the same, and models were trained and published with it.

        Raises:
            ValueError: more positions than slots, so that a call would overwrite its own keys.
        """
        if steps > context:
            raise ValueError(f"{steps} positions do not fit a ring of {context}")
        queries = starts[:, None] + np.arange(steps)  # [w, T]
        seq_lens = np.minimum(queries[:, -1] + 1, context)
        breaks = np.flatnonzero((np.diff(lanes) != 1) | (np.diff(seq_lens) != 0)) + 1
        spans = []
        for begin, end in itertools.pairwise([0, *breaks.tolist(), len(lanes)]):
            row, seq_len = int(lanes[begin]), int(seq_lens[begin])
            mask = None if steps == 1 else mx.array(_visible(queries[begin:end], seq_len, context))
            spans.append(AttentionSpan(slice(begin, end), slice(row, row + end - begin), seq_len, mask))
        slots = ring_slots(queries, context, pinned)
        return cls(len(lanes), _slot_mapping(lanes, slots, heads), tuple(spans))

    def write(self, ring: mx.array, fresh: mx.array) -> mx.array:
        """`ring [rows, H, context, D]` with `fresh [w, H, T, D]` at the mapped slots.

        The argument keeps the old values. If nothing refers to it any more when the result is
        evaluated, MLX writes into its memory and makes no copy.
        """
        fresh = fresh.astype(ring.dtype)
        if isinstance(self.slot_mapping, mx.array):  # a fraction of what a scatter costs
            return mx.slice_update(ring, fresh, self.slot_mapping, (0, 1, 2, 3))
        written = mx.array(ring)
        written[self.slot_mapping] = fresh
        return written

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Attention of each lane's `queries [w, H, T, D]` over the filled slots of its own row.

        It runs on views, whose products are computed matrix by matrix: a row's result cannot
        depend on other rows, and a session of two seconds does not pay for a ring of four minutes.
        """
        scale = queries.shape[-1] ** -0.5
        outputs = [
            mx.fast.scaled_dot_product_attention(
                queries[span.batch],
                keys[span.rows, :, : span.seq_len],
                values[span.rows, :, : span.seq_len],
                scale=scale,
                mask=span.mask,
            )
            for span in self.spans
        ]
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=0)


def ring_slots(positions: Positions, context: int, pinned: Positions | None = None) -> npt.NDArray[np.int32]:
    """The slots of `positions [w, T]` in a ring of `context`, of which row i keeps its first `pinned[i]`.

    Without pinned ones a position's slot is its remainder. Until the ring is full that is the position itself
    in both cases; afterwards a query attends to the pinned positions and to the last `context - pinned`.
    """
    if pinned is None or not pinned.any():
        return (positions % context).astype(np.int32)
    kept = pinned[:, None]
    slots = np.where(positions < kept, positions, kept + (positions - kept) % (context - kept))
    return slots.astype(np.int32)


def _visible(queries: Positions, seq_len: int, context: int) -> npt.NDArray[np.bool_]:
    """Which filled slots each of `queries [n, T]` may read once all are written: `[n, 1, T, seq_len]`."""
    last = queries[:, -1:]
    stored = last - (last - np.arange(seq_len)) % context  # the position in each slot
    visible: npt.NDArray[np.bool_] = stored[:, None] <= queries[:, :, None]
    return visible[:, None]


def _slot_mapping(
    lanes: Lanes, slots: npt.NDArray[np.int32], heads: int
) -> tuple[mx.array, mx.array, mx.array] | mx.array:
    """The `slot_mapping` of `slots [w, T]`, broadcast here once instead of in every layer."""
    width, steps = slots.shape
    if width == 1 and slots[0, -1] - slots[0, 0] == steps - 1:
        return mx.array(np.array([lanes[0], 0, slots[0, 0], 0], np.int32))
    head = np.arange(heads, dtype=np.int32)[:, None]
    row, head, slot = np.broadcast_arrays(lanes[:, None, None], head, slots[:, None])
    return mx.array(row), mx.array(head), mx.array(slot)


def causal_attention(queries: mx.array, keys: mx.array, values: mx.array, context: int | None) -> mx.array:
    """Attention of every position to itself and the `context - 1` before it (all of them where None).

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


class MultiheadAttention(nn.Module):
    """The projections of one layer's attention, in `sets` variants (in the depformer one per codebook)."""

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, sets: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        width = d_model // num_heads * (num_heads + 2 * num_kv_heads)
        self.in_projs = [Linear(d_model, width, bias=False) for _ in range(sets)]
        self.out_projs = [Linear(d_model, d_model, bias=False) for _ in range(sets)]

    def project(
        self, x: mx.array, width: int, rope: RotaryEmbedding | None, weight_set: int = 0
    ) -> tuple[mx.array, mx.array, mx.array]:
        """`x [w · T, D]` → queries `[w, H, T, Dh]`, keys and values `[w, Hkv, T, Dh]`."""
        rotated = self.num_heads + self.num_kv_heads
        # Packed along the width: all queries, all keys, all values.
        heads = _split_heads(self.in_projs[weight_set](x), width, rotated + self.num_kv_heads)
        if rope is None:
            queries, keys, values = mx.split(heads, [self.num_heads, rotated], axis=1)
            return queries, keys, values
        unrotated, values = mx.split(heads, [rotated], axis=1)
        queries, keys = mx.split(rope(unrotated), [self.num_heads], axis=1)
        return queries, keys, values

    def merge(self, heads: mx.array, weight_set: int = 0) -> mx.array:
        """`heads [w, H, T, Dh]` → `[w · T, D]`, projected."""
        width, _, steps, _ = heads.shape
        # Heads of a single position are in the right order already.
        rows = heads if steps == 1 else heads.swapaxes(1, 2)
        return self.out_projs[weight_set](rows.reshape(width * steps, -1))


def _split_heads(packed: mx.array, width: int, heads: int) -> mx.array:
    """`packed [w · T, heads · Dh]` → `[w, heads, T, Dh]`."""
    steps = len(packed) // width
    if steps == 1:
        return packed.reshape(width, heads, 1, -1)
    return packed.reshape(width, steps, heads, -1).swapaxes(1, 2)
