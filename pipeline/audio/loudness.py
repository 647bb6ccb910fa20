"""Loudness: a recording brought to the level of the voices that the model was trained on.

The measure is that of the package `pyloudnorm` (ITU-R BS.1770-4), which the model's authors used as well.
It is an optional dependency: only whoever adds a voice of their own needs it.
"""

from typing import Final

import numpy as np

from pipeline.errors import AudioFileError, ConfigError
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

VOICE_LUFS: Final = -24.0
MIN_S: Final = 0.4  # one block of the measure


def normalized(pcm: Pcm, path: str) -> Pcm:
    """The recording `pcm [S]` from the file `path` at `VOICE_LUFS`; there is no limiter, so it may exceed ±1.

    Raises:
        ConfigError: `pyloudnorm` is not installed.
        AudioFileError: it is shorter than `MIN_S`, or so quiet that it has no loudness.
    """
    try:
        import pyloudnorm  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError("", "a voice needs its loudness measured: pip install pyloudnorm") from None
    if len(pcm) < MIN_S * SAMPLE_RATE_HZ:
        raise AudioFileError(path, f"is shorter than {MIN_S:g} s")
    loudness = pyloudnorm.Meter(SAMPLE_RATE_HZ).integrated_loudness(pcm.astype(np.float64))
    if not np.isfinite(loudness):
        raise AudioFileError(path, "is silent")
    gain = 10 ** ((VOICE_LUFS - float(loudness)) / 20)
    return (pcm * gain).astype(np.float32)
