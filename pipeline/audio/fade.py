"""A fade-in after a gap, so that sound which resumes in the middle of a wave does not click."""

from typing import Final

import numpy as np

from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

FADE_MS: Final = 5
_FADE_SAMPLES: Final = SAMPLE_RATE_HZ * FADE_MS // 1000

# A raised cosine has no corner at either end, so neither end clicks. The half-sample
# offset keeps it symmetric: it and its mirror image sum to 1.
_RISE: Final[Pcm] = (0.5 - 0.5 * np.cos(np.pi * (np.arange(_FADE_SAMPLES) + 0.5) / _FADE_SAMPLES)).astype(
    np.float32
)


def fade_in(pcm: Pcm) -> Pcm:
    """A copy of `pcm [S]` whose first 5 ms rise from silence; the rest is unchanged bit for bit."""
    faded = pcm.copy()
    faded[:_FADE_SAMPLES] *= _RISE[: len(faded)]
    return faded
