"""Which rows of a batch a call works on.

Every streaming state has one row per lane and one *scratch* row behind them. On a GPU a call
that serves `n` lanes runs at the next bucket width (1, 2, 4, 8, …), its spare places
filled with the scratch row, so that few widths are ever compiled and one session does
not pay for eight. What lands in the scratch row is never read. On a CPU nothing is compiled
and every row is paid for: a call is as wide as its lanes.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.backend import prepare

IN_BUCKETS = prepare().device != "cpu"


def bucket_width(lanes: int) -> int:
    """The smallest power of two that holds `lanes`; at least 1."""
    return 1 << max(lanes - 1, 0).bit_length()


def bucket_widths(lanes: int) -> list[int]:
    """1, 2, 4, … up to the bucket of `lanes`: every width a batch can have."""
    return [1 << power for power in range(bucket_width(lanes).bit_length())]


def padded_rows(
    lanes: Sequence[int], scratch: int, *, in_buckets: bool = IN_BUCKETS
) -> npt.NDArray[np.int32]:
    """Rows `[w]` int32: the lanes in their order, then `scratch` up to the width, `in_buckets` the bucket's.

    Raises:
        ValueError: a lane is named twice; its two frames would race for one state.
    """
    if len(set(lanes)) != len(lanes):
        raise ValueError(f"a lane is named twice in one batch: {list(lanes)}")
    rows = np.full(bucket_width(len(lanes)) if in_buckets else len(lanes), scratch, np.int32)
    rows[: len(lanes)] = lanes
    return rows


Scalar = TypeVar("Scalar", bound=np.generic)


def padded(values: npt.NDArray[Scalar], width: int) -> npt.NDArray[Scalar]:
    """`[n, …]` → `[width, …]`, zeros for the scratch row; the same array where nothing is missing."""
    if len(values) == width:
        return values
    out = np.zeros((width, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
