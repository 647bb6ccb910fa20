"""Change the sample rate: a whole recording at once, or a live stream piece by piece.

Source: the SoX resampler (libsoxr), band-limited, linear phase.
"""

from typing import Final

import numpy as np
import soxr

from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_RECORDED: Final = "VHQ"  # the longest filter: latency does not matter for a file
_LIVE: Final = "HQ"  # clean to 20 bits, and holds back 5 ms where VHQ holds back 8


def to_speech_rate(pcm: Pcm, rate_hz: int) -> Pcm:
    """Resample `pcm [S]` from `rate_hz` to 24 kHz; unchanged where it has that rate already."""
    if rate_hz == SAMPLE_RATE_HZ:
        return pcm
    return np.asarray(soxr.resample(pcm, rate_hz, SAMPLE_RATE_HZ, quality=_RECORDED), np.float32)


class StreamResampler:
    """Resamples a stream in pieces of any length.

    Pieces in, concatenated, give pieces out that concatenate to the same result. Equal
    rates pass through.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream = (
            None
            if from_hz == to_hz
            else soxr.ResampleStream(from_hz, to_hz, num_channels=1, dtype="float32", quality=_LIVE)
        )

    def push(self, samples: Pcm) -> Pcm:
        """Append `samples [S]`; the output samples that are final by now."""
        return self._resample(samples, last=False)

    def flush(self) -> Pcm:
        """End the stream: the output samples that the filter still held back."""
        return self._resample(np.empty(0, np.float32), last=True)

    def _resample(self, samples: Pcm, *, last: bool) -> Pcm:
        if self._stream is None:
            return samples
        return np.asarray(self._stream.resample_chunk(samples, last=last), np.float32)
