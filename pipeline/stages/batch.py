"""Batches: which rows of the state a call works on, and padding to bucket widths.

Every streaming state has one row per lane and one *scratch* row after them. On a GPU a call for
`n` lanes runs at the next bucket width (1, 2, 4, 8, …), padded with the scratch row, so that
few shapes exist and one session does not pay for eight. The scratch row is never read. On a
CPU every row has its price: a call is as wide as its lanes (`Backend.pads_batches`).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt


def bucket_width(lanes: int) -> int:
    """The smallest power of two that holds `lanes`; at least 1."""
    return 1 << max(lanes - 1, 0).bit_length()


def bucket_widths(lanes: int) -> list[int]:
    """1, 2, 4, … up to the bucket of `lanes`: every width a batch can have."""
    return [1 << power for power in range(bucket_width(lanes).bit_length())]


def padded_rows(lanes: Sequence[int], scratch: int, *, in_buckets: bool = True) -> npt.NDArray[np.int32]:
    """Rows `[w]` int32: the lanes in their order, then `scratch` up to the bucket's width if `in_buckets`.

    Raises:
        ValueError: a lane is named twice; both of its frames would write to one row.
    """
    if len(set(lanes)) != len(lanes):
        raise ValueError(f"a lane is named twice in one batch: {list(lanes)}")
    rows = np.full(bucket_width(len(lanes)) if in_buckets else len(lanes), scratch, np.int32)
    rows[: len(lanes)] = lanes
    return rows


Scalar = TypeVar("Scalar", bound=np.generic)


def padded(values: npt.NDArray[Scalar], width: int) -> npt.NDArray[Scalar]:
    """`[n, …]` → `[width, …]`, padded with zeros; the same array if it is as wide already."""
    if len(values) == width:
        return values
    out = np.zeros((width, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
