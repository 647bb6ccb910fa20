"""Assigns lanes to the slots of a compiled batch, with few shapes and without copying rings.

A compiled function has fixed shapes, so a batch has one of a few widths, and some of its slots
may be empty: their results go to the scratch row, the last of the state, which is never read.
What is computed: `lm`, `mimi`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.models.layers.attention import Lanes, Positions

# A ring that is gathered is read, written and read again; one used in place is read once.
_GATHER_COST: Final = 3
_FIRST_SLOTS: Final = 256


class ShapeKey(NamedTuple):
    """The shapes that a function is compiled for.

    width: slots of the batch. in_place: slot i uses row i of the state. ring_slots: how many slots
    of each ring attention reads.
    """

    width: int
    in_place: bool
    ring_slots: int


Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class BatchSlots:
    """A batch of `width` slots, in which lane `lanes[i]` has slot `slots[i]`; the others are empty."""

    width: int
    in_place: bool
    lanes: Lanes
    slots: npt.NDArray[np.int32]

    @classmethod
    def of(cls, lanes: Sequence[int] | Lanes, scratch: int) -> "BatchSlots":
        """Slots for `lanes`; those equal to `scratch`, which come last and are above all others, get none.

        Each lane gets the slot of its own number if that fits a width cheaper than a gather, and its
        rings are then read in place. A few lanes with high numbers are gathered instead.
        """
        named = np.array([lane for lane in lanes if lane != scratch], np.int32)
        assert np.array_equal(named, lanes[: len(named)])
        reach = _width(int(named.max(initial=0)) + 1, scratch)
        gathered = _width(len(named), scratch)
        if _GATHER_COST * gathered < reach:
            return cls(gathered, in_place=False, lanes=named, slots=np.arange(len(named), dtype=np.int32))
        return cls(reach, in_place=True, lanes=named, slots=named)

    @classmethod
    def empty(cls, width: int, *, in_place: bool) -> "BatchSlots":
        """A batch without lanes."""
        none = np.empty(0, np.int32)
        return cls(width, in_place, none, none)

    def rows(self, scratch: int) -> Lanes:
        """The row of the state that each slot writes to, `[width]`."""
        rows = np.full(self.width, scratch, np.int32)
        rows[self.slots] = self.lanes
        return rows

    def starts(self, offsets: Positions, scratch: int) -> Positions:
        """The entries of `offsets [rows]` that belong to the slots, `[width]`; 0 for an empty slot.

        In a batch without lanes, the scratch row's offset.
        """
        starts = np.full(self.width, 0 if len(self.slots) else offsets[scratch], offsets.dtype)
        starts[self.slots] = offsets[self.lanes]
        return starts

    def scatter(self, values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The lanes' values `[n or more, …]` at their slots, `[width, …]`; empty slots repeat the first."""
        source = np.zeros(self.width, np.intp)
        source[self.slots] = np.arange(len(self.slots))
        return values[source]

    @property
    def order(self) -> npt.NDArray[np.int32]:
        """The slots of the lanes in the order of the lanes, then padding, `[width]`."""
        order = np.zeros(self.width, np.int32)
        order[: len(self.slots)] = self.slots
        return order


def batch_shapes(lanes: int) -> list[tuple[int, bool]]:
    """Every (width, in_place) that batches of up to `lanes` lanes can have."""
    widths = [1 << power for power in range(lanes.bit_length()) if 1 << power < lanes] + [lanes]
    gathered = [width for width in widths if _GATHER_COST * width < lanes]
    return [(width, True) for width in widths] + [(width, False) for width in gathered]


def slot_counts(context: int) -> list[int]:
    """How many slots of a ring of `context` attention may read: 256, 512, …, and all."""
    counts = []
    count = _FIRST_SLOTS
    while count < context:
        counts.append(count)
        count *= 2
    return [*counts, context]


def slot_count(seq_len: int, context: int) -> int:
    """The smallest of them that holds `seq_len` positions."""
    return next(count for count in slot_counts(context) if count >= seq_len)


def _width(lanes: int, limit: int) -> int:
    return min(1 << max(lanes - 1, 0).bit_length(), limit)
