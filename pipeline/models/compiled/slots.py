"""Where in a compiled batch each lane is computed, so that few shapes exist and no ring is copied.

A compiled function has fixed shapes, so a batch has one of a few widths, and some of its
places may be nobody's: what is computed there is written to the scratch row, the last of the
state, and read by no one. Which lane sits where is decided here; what is computed: `compiled`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.models.layers.attention import Lanes, Positions

# A ring that is gathered is read, written and read again; one in its place is read once.
_GATHERING_COSTS: Final = 3
_FIRST_SLOTS: Final = 256


class Form(NamedTuple):
    """What one function is compiled for. in_place: place i reads row i of the state, and no other.

    slots: how many of a ring's slots are looked at.
    """

    width: int
    in_place: bool
    slots: int


Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Places:
    """A batch of `width` places, in which the i-th of the lanes `lanes [n]` has place `at[i]`."""

    width: int
    in_place: bool
    lanes: Lanes
    at: npt.NDArray[np.int32]

    @classmethod
    def of(cls, lanes: Sequence[int] | Lanes, scratch: int) -> "Places":
        """Seat `lanes`, of which those called `scratch`, the last ones, are nobody; every other is below it.

        Each has the place of its own number if the width which that takes is affordable: its rings
        are then read where they are. A few lanes of high numbers are gathered.
        """
        named = np.array([lane for lane in lanes if lane != scratch], np.int32)
        assert np.array_equal(named, lanes[: len(named)])
        reach = _width(int(named.max(initial=0)) + 1, scratch)
        gathered = _width(len(named), scratch)
        if _GATHERING_COSTS * gathered < reach:
            return cls(gathered, in_place=False, lanes=named, at=np.arange(len(named), dtype=np.int32))
        return cls(reach, in_place=True, lanes=named, at=named)

    @classmethod
    def nobodys(cls, width: int, *, in_place: bool) -> "Places":
        """All places free."""
        nobody = np.empty(0, np.int32)
        return cls(width, in_place, nobody, nobody)

    def rows(self, scratch: int) -> Lanes:
        """The row of the state that each place writes to, `[width]`."""
        rows = np.full(self.width, scratch, np.int32)
        rows[self.at] = self.lanes
        return rows

    def starts(self, positions: Positions, scratch: int) -> Positions:
        """Of `positions [rows]`, what belongs to the places, `[width]`; a free place looks at one slot."""
        starts = np.full(self.width, 0 if len(self.at) else positions[scratch], positions.dtype)
        starts[self.at] = positions[self.lanes]
        return starts

    def spread(self, values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """What the lanes have, `[n or more, …]`, at their places, `[width, …]`; elsewhere the first's."""
        source = np.zeros(self.width, np.intp)
        source[self.at] = np.arange(len(self.at))
        return values[source]

    @property
    def order(self) -> npt.NDArray[np.int32]:
        """The lanes' places in the order of the lanes, then others, `[width]`."""
        order = np.zeros(self.width, np.int32)
        order[: len(self.at)] = self.at
        return order


def seats(lanes: int) -> list[tuple[int, bool]]:
    """Every (width, in_place) that batches of up to `lanes` lanes are given."""
    widths = [1 << power for power in range(lanes.bit_length()) if 1 << power < lanes] + [lanes]
    gathered = [width for width in widths if _GATHERING_COSTS * width < lanes]
    return [(width, True) for width in widths] + [(width, False) for width in gathered]


def slot_counts(context: int) -> list[int]:
    """How many slots of a ring of `context` a function may look at: 256, 512, … and all."""
    counts = []
    count = _FIRST_SLOTS
    while count < context:
        counts.append(count)
        count *= 2
    return [*counts, context]


def slots_for(filled: int, context: int) -> int:
    """The least of them that holds `filled`."""
    return next(count for count in slot_counts(context) if count >= filled)


def _width(lanes: int, most: int) -> int:
    return min(1 << max(lanes - 1, 0).bit_length(), most)
