"""Attention inside a compiled graph: how much of a ring is filled is a number in an array.

So one function serves sessions of any length: it looks at a fixed number of slots, and a mask
hides those that a row has not filled, or may not see yet. Outside a graph, where lengths are
Python's numbers and no mask is needed: `attention`.
"""

from dataclasses import dataclass

import mlx.core as mx

from pipeline.models.compiled.inputs import Numbers
from pipeline.models.compiled.slots import Form
from pipeline.models.layers.attention import Positions, Projections


def slots_told(starts: Positions, steps: int, context: int) -> dict[str, Numbers]:
    """What `MaskedPlan` needs to know of rows whose next positions are `starts [w]`: `slots`, `filled`."""
    queries = starts[:, None] + range(steps)  # [w, T]
    return {"slots": queries % context, "filled": (queries[:, -1:] + 1).clip(max=context)}


@dataclass(frozen=True, slots=True)
class MaskedPlan:
    """Where the positions of a compiled call go, and what they see.

    rows: of the places, `[n]`. written: row, head and slot of what is written, each `[n, Hkv, T]`.
    begins: the rows of the rings at which the places' own begin, once for each kind of rows that a
    session has; none where they are gathered. mask: `[n, H or 1, T, looked at]` bool.
    """

    rows: mx.array
    written: tuple[mx.array, mx.array, mx.array]
    begins: tuple[int, ...]
    mask: mx.array

    @classmethod
    def of(
        cls,
        form: Form,
        told: dict[str, mx.array],
        *,
        context: int,
        attention: Projections,
        begins: tuple[int, ...] = (0,),
    ) -> "MaskedPlan":
        """`told`: the `row [w, 1]` of each place, its `slots [w, T]` and `filled [w, 1]`.

        `attention`: any layer's; it has the heads.
        """
        rows = mx.concatenate([told["row"] + begin for begin in begins])
        slots = mx.concatenate([told["slots"]] * len(begins))
        filled = mx.concatenate([told["filled"]] * len(begins))
        steps = slots.shape[1]
        back = slots[:, -1:] - mx.arange(form.slots, dtype=mx.int32)
        age = mx.where(back < 0, back + context, back)  # of each slot, in positions before the last
        visible = age < filled  # [n, looked at]
        mask = mx.stack([visible & (age >= steps - 1 - step) for step in range(steps)], axis=1)[:, None]
        # What follows is done here once, lest every layer did it for itself.
        if len(rows) > 1:
            spread = (len(rows), attention.num_heads, steps, form.slots)
            mask = mx.contiguous(mx.broadcast_to(mask, spread))
        heads = mx.arange(attention.num_kv_heads, dtype=mx.int32)
        row, head, slot = mx.broadcast_arrays(rows[:, :, None], heads[:, None], slots[:, None])
        return cls(rows[:, 0], (row, head, slot), begins if form.in_place else (), mask)

    @property
    def width(self) -> int:
        """How many places a call advances, times the kinds of rows that a session has."""
        return len(self.rows)

    def write(self, ring: mx.array, fresh: mx.array) -> mx.array:
        """`ring [rows, Hkv, context, D]` with `fresh [n, Hkv, T, D]` in it, in the same memory."""
        written = mx.array(ring)
        written[self.written] = fresh.astype(ring.dtype)
        return written

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """`queries [n, H, T, D]`, rings `[rows, Hkv, context, D]` → `[n, H, T, D]`."""
        looked_at = self.mask.shape[-1]
        keys, values = keys[:, :, :looked_at], values[:, :, :looked_at]
        if not self.begins:
            keys, values = mx.take(keys, self.rows, axis=0), mx.take(values, self.rows, axis=0)
            return _attention(queries, keys, values, self.mask)
        width = len(queries) // len(self.begins)
        seen = []
        for begin, first in zip(self.begins, range(0, len(queries), width), strict=True):
            own, places = slice(begin, begin + width), slice(first, first + width)
            seen.append(_attention(queries[places], keys[own], values[own], self.mask[places]))
        return seen[0] if len(seen) == 1 else mx.concatenate(seen)


def _attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    scale = queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
