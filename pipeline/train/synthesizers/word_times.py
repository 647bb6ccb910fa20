"""When each word of a recording begins: aligned with a recording whose word times are known.

Kokoro and others report no times. espeak-ng does; its recording of the same text is aligned with
theirs by dynamic time warping of log-mel spectra (Sakoe and Chiba 1978).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_HOP: Final = SAMPLE_RATE_HZ // 100
_WINDOW: Final = 600
_FFT: Final = 1024
_BANDS: Final = 32
_FLOOR: Final = 1e-4
_SILENT_DB: Final = -42.0  # below the loudest 10 ms
_SLANT: Final = 1.1  # what a step that advances in one recording alone costs more

Floats = npt.NDArray[np.float32]


def _bank() -> Floats:
    frequencies = np.linspace(0, SAMPLE_RATE_HZ / 2, _FFT // 2 + 1)
    mels = np.linspace(2595 * np.log10(1 + 80 / 700), 2595 * np.log10(1 + 7600 / 700), _BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


_BANK: Final = _bank()


def features(pcm: Pcm) -> Floats:
    """`[S]` → `[T, 32]`, 10 ms a row: log-mel bands, each of mean 0 and deviation 1."""
    padded = np.pad(pcm, (_WINDOW // 2, _WINDOW // 2 + _HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), _FFT))
    mel = np.log(magnitudes @ _BANK.T + _FLOOR * max(float(magnitudes.max()), 1e-6))
    scaled: Floats = ((mel - mel.mean(0)) / (mel.std(0) + 1e-3)).astype(np.float32)
    return scaled


def trimmed(pcm: Pcm) -> Pcm:
    """`pcm` without the silence at its ends."""
    frames = pcm[: len(pcm) // _HOP * _HOP].reshape(-1, _HOP)
    level = np.sqrt((frames**2).mean(1) + 1e-12)
    loud = np.flatnonzero(20 * np.log10(level / level.max()) > _SILENT_DB)
    first, last = max(int(loud[0]) - 1, 0), int(loud[-1]) + 2
    return pcm[first * _HOP : last * _HOP]


def warping(one: Floats, other: Floats) -> npt.NDArray[np.int64]:
    """`[T1, D]` and `[T2, D]` → the row of `other` that goes with each row of `one`; never back."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    distance = np.sqrt(np.maximum(squares, 0))
    rows, columns = distance.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    # By diagonals, whose cells depend on the two before alone.
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        here = distance[i - 1, j - 1]
        total[i, j] = np.minimum(
            total[i - 1, j - 1] + here,
            np.minimum(total[i - 1, j], total[i, j - 1]) + _SLANT * here,
        )
    i, j = rows, columns
    matched = np.zeros(rows, np.int64)
    while i and j:
        matched[i - 1] = j - 1
        step = int(np.argmin((total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])))
        i, j = i - (step != 2), j - (step != 1)
    return matched


def timed(pcm: Pcm, known: Spoken) -> Spoken:
    """`pcm`, trimmed, with the times of the words and sounds of `known`, a recording of the same text."""
    pcm = trimmed(pcm)
    matched = warping(features(known.pcm), features(pcm))

    def moved(sample: int) -> int:
        return min(int(matched[min(sample // _HOP, len(matched) - 1)]) * _HOP, len(pcm) - 1)

    starts = (0, *(moved(start) for start in known.word_starts[1:]))
    return Spoken(pcm, starts, tuple(Sound(sound.phoneme, moved(sound.start)) for sound in known.sounds))
