"""µ-law and A-law (ITU-T G.711): one byte a sample, logarithmic, for telephones.

Both tables are computed from the recommendation's segments. What does not belong here: the rate, which
is 8 kHz (`resampling`).
"""

from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.values import Pcm

Law = Literal["mulaw", "alaw"]
_INT16_STEPS: Final = 32_768


def decode(data: bytes, law: Law) -> Pcm:
    """Bytes to samples `[S]` within ±1."""
    levels: Pcm = _levels(law)[np.frombuffer(data, np.uint8)]
    return levels


def encode(samples: Pcm, law: Law) -> bytes:
    """Samples `[S]` to bytes: each the code with the nearest level."""
    steps = np.clip(np.rint(samples * _INT16_STEPS), -_INT16_STEPS, _INT16_STEPS - 1).astype(np.int32)
    return _codes(law)[steps + _INT16_STEPS].tobytes()


@cache
def _levels(law: Law) -> Pcm:
    """The level of each of the 256 codes."""
    code = np.arange(256, dtype=np.int32) ^ (0xFF if law == "mulaw" else 0x55)
    segment, step = (code >> 4) & 7, code & 15
    if law == "mulaw":
        magnitude = (((step << 3) + 0x84) << segment) - 0x84
        sign = np.where(code & 0x80, -1, 1)
    else:
        magnitude = np.where(
            segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0)
        )
        sign = np.where(code & 0x80, 1, -1)
    levels: Pcm = (sign * magnitude / _INT16_STEPS).astype(np.float32)
    return levels


@cache
def _codes(law: Law) -> npt.NDArray[np.uint8]:
    """The code of each 16-bit sample, from the lowest."""
    levels = _levels(law)
    order = np.argsort(levels, kind="stable").astype(np.uint8)
    ascending = levels[order]
    boundaries = (ascending[1:] + ascending[:-1]) / 2
    samples = np.arange(-_INT16_STEPS, _INT16_STEPS, dtype=np.float32) / _INT16_STEPS
    return order[np.searchsorted(boundaries, samples)]
