"""Attention inside a compiled function, where the length of each sequence is a number in an array.

One function serves sessions of any length: it reads a fixed number of slots, and a mask hides
those that a row has not filled or may not read yet. The same with Python numbers as lengths and
without a mask: `pipeline.models.layers.attention`.
"""

from dataclasses import dataclass

import mlx.core as mx

from pipeline.models.compiled.inputs import Numbers
from pipeline.models.compiled.slots import ShapeKey
from pipeline.models.layers.attention import MultiheadAttention, Positions, ring_slots


def cache_inputs(
    starts: Positions, steps: int, context: int, pinned: Positions | None = None
) -> dict[str, Numbers]:
    """`slot_mapping [w, T]` and `seq_lens [w, 1]` of rows whose next positions begin at `starts [w]`.

    `pinned [w]`: see `ring_slots`; only for `steps` of 1, whose query may read every filled slot.
    """
    queries = starts[:, None] + range(steps)  # [w, T]
    return {
        "slot_mapping": ring_slots(queries, context, pinned),
        "seq_lens": (queries[:, -1:] + 1).clip(max=context),
    }


@dataclass(frozen=True, slots=True)
class MaskedAttentionMetadata:
    """Where the positions of a compiled call go, and what they may read.

    rows: the row of the rings for each slot of the batch, `[n]`. slot_mapping: row, head and slot
    of each position, each `[n, Hkv, T]`. begins: the first row of the rings of each group of rows
    (with guidance there are two); empty where rows are gathered. mask: `[n, H or 1, T, read]` bool.
    """

    rows: mx.array
    slot_mapping: tuple[mx.array, mx.array, mx.array]
    begins: tuple[int, ...]
    mask: mx.array

    @classmethod
    def of(
        cls,
        key: ShapeKey,
        inputs: dict[str, mx.array],
        *,
        context: int,
        attention: MultiheadAttention,
        begins: tuple[int, ...] = (0,),
    ) -> "MaskedAttentionMetadata":
        """`inputs`: `row [w, 1]` of each slot of the batch, and what `cache_inputs` gives.

        `attention`: that of any layer, for the numbers of heads.
        """
        rows = mx.concatenate([inputs["row"] + begin for begin in begins])
        slots = mx.concatenate([inputs["slot_mapping"]] * len(begins))
        seq_lens = mx.concatenate([inputs["seq_lens"]] * len(begins))
        steps = slots.shape[1]
        back = slots[:, -1:] - mx.arange(key.ring_slots, dtype=mx.int32)
        age = mx.where(back < 0, back + context, back)  # of each slot, in positions before the last
        visible = age < seq_lens  # [n, read]
        mask = mx.stack([visible & (age >= steps - 1 - step) for step in range(steps)], axis=1)[:, None]
        # Broadcast here once instead of in every layer.
        if len(rows) > 1:
            shape = (len(rows), attention.num_heads, steps, key.ring_slots)
            mask = mx.contiguous(mx.broadcast_to(mask, shape))
        heads = mx.arange(attention.num_kv_heads, dtype=mx.int32)
        row, head, slot = mx.broadcast_arrays(rows[:, :, None], heads[:, None], slots[:, None])
        return cls(rows[:, 0], (row, head, slot), begins if key.in_place else (), mask)

    @property
    def width(self) -> int:
        """How many rows a call advances: slots of the batch, times the groups of rows."""
        return len(self.rows)

    def write(self, ring: mx.array, fresh: mx.array) -> mx.array:
        """`ring [rows, Hkv, context, D]` with `fresh [n, Hkv, T, D]` written to its slots."""
        written = mx.array(ring)
        written[self.slot_mapping] = fresh.astype(ring.dtype)
        return written

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """`queries [n, H, T, D]`, rings `[rows, Hkv, context, D]` → `[n, H, T, D]`."""
        read = self.mask.shape[-1]
        keys, values = keys[:, :, :read], values[:, :, :read]
        if not self.begins:
            keys, values = mx.take(keys, self.rows, axis=0), mx.take(values, self.rows, axis=0)
            return _attention(queries, keys, values, self.mask)
        width = len(queries) // len(self.begins)
        outputs = []
        for begin, first in zip(self.begins, range(0, len(queries), width), strict=True):
            rows, batch = slice(begin, begin + width), slice(first, first + width)
            outputs.append(_attention(queries[batch], keys[rows], values[rows], self.mask[batch]))
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


def _attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    scale = queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
