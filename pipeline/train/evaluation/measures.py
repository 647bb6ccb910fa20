"""Where a recording begins to sound."""

from typing import Final

import numpy as np

from pipeline.values import Pcm

_HOP: Final = 480
_QUIET: Final = 0.01  # root mean square of 20 ms: less is not speech


def spoken_from(pcm: Pcm) -> int | None:
    """The first sample of the first 20 ms that are not quiet."""
    count = len(pcm) // _HOP
    loudness = np.sqrt((pcm[: count * _HOP].reshape(-1, _HOP).astype(np.float64) ** 2).mean(1))
    loud = np.flatnonzero(loudness > _QUIET)
    return int(loud[0]) * _HOP if len(loud) else None
