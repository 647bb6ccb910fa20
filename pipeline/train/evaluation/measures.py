"""Objective measures of speech: log-mel distance and intelligibility (STOI).

STOI after Taal, Hendriks, Heusdens and Jensen 2011, "An algorithm for intelligibility
prediction of time-frequency weighted noisy speech".
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_WINDOW: Final = 1024
_HOP: Final = 480
_BANDS: Final = 64
_FLOOR: Final = 1e-3
_QUIET: Final = 0.01  # root mean square of 20 ms: less is not speech

_STOI_RATE_HZ: Final = 10_000
_STOI_WINDOW: Final = 256
_STOI_SEGMENT: Final = 30
_STOI_RANGE_DB: Final = 40
_STOI_CLIP: Final = 1 + 10 ** (15 / 20)

Floats = npt.NDArray[np.float64]


def _spectrogram(pcm: Pcm, window: int, hop: int, size: int) -> Floats:
    """Magnitudes `[T, size / 2 + 1]`."""
    padded = np.pad(pcm.astype(np.float64), (0, max(0, window - len(pcm))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    magnitudes: Floats = np.abs(np.fft.rfft(frames * np.hanning(window + 2)[1:-1], size))
    return magnitudes


def _mel_bank() -> Floats:
    frequencies = np.linspace(0, SAMPLE_RATE_HZ / 2, _WINDOW // 2 + 1)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE_HZ / 1400), _BANDS + 2) / 2595) - 1)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(np.minimum(rise, fall), 0)
    total: Floats = bank / np.maximum(bank.sum(1, keepdims=True), 1e-9)
    return total


_BANK: Final = _mel_bank()


def log_mel(pcm: Pcm) -> Floats:
    """`[T, 64]`, natural logarithms of magnitudes, one row each 20 ms."""
    magnitudes = _spectrogram(pcm, _WINDOW, _HOP, _WINDOW) * (4 / _WINDOW)
    logarithms: Floats = np.log(magnitudes @ _BANK.T + _FLOOR)
    return logarithms


def log_mel_distance_db(degraded: Pcm, reference: Pcm) -> float:
    """The mean distance of log-mel magnitudes, in decibels, where the reference is not silent."""
    length = min(len(degraded), len(reference))
    one, other = log_mel(degraded[:length]), log_mel(reference[:length])
    audible = other.max(1) > np.log(_FLOOR) + 1
    return float(np.abs(one - other)[audible].mean() * 20 / np.log(10))


def spoken_from(pcm: Pcm) -> int | None:
    """The first sample of the first 20 ms that are not quiet."""
    count = len(pcm) // _HOP
    loudness = np.sqrt((pcm[: count * _HOP].reshape(-1, _HOP).astype(np.float64) ** 2).mean(1))
    loud = np.flatnonzero(loudness > _QUIET)
    return int(loud[0]) * _HOP if len(loud) else None


def _third_octaves() -> Floats:
    frequencies = np.linspace(0, _STOI_RATE_HZ / 2, _STOI_WINDOW + 1)
    centres = 150 * 2 ** (np.arange(15) / 3)
    low, high = centres * 2 ** (-1 / 6), centres * 2 ** (1 / 6)
    bank: Floats = ((frequencies >= low[:, None]) & (frequencies < high[:, None])).astype(np.float64)
    return bank


def stoi(degraded: Pcm, reference: Pcm) -> float:
    """Short-time objective intelligibility of `degraded`, 0 to 1; 0 where it is too short."""
    length = min(len(degraded), len(reference))
    clean = soxr.resample(reference[:length], SAMPLE_RATE_HZ, _STOI_RATE_HZ)
    other = soxr.resample(degraded[:length], SAMPLE_RATE_HZ, _STOI_RATE_HZ)
    hop = _STOI_WINDOW // 2
    both = [_spectrogram(each, _STOI_WINDOW, hop, 2 * _STOI_WINDOW) for each in (clean, other)]
    energy = 20 * np.log10(np.sqrt((both[0] ** 2).sum(1)) + 1e-12)
    kept = energy > energy.max() - _STOI_RANGE_DB
    if kept.sum() < _STOI_SEGMENT:
        return 0.0
    bank = _third_octaves()
    x, y = (np.sqrt((each[kept] ** 2) @ bank.T).T for each in both)  # [15, T]
    segments = np.arange(_STOI_SEGMENT, x.shape[1] + 1)
    total = 0.0
    for end in segments:
        one, two = x[:, end - _STOI_SEGMENT : end], y[:, end - _STOI_SEGMENT : end]
        scale = np.linalg.norm(one, axis=1, keepdims=True) / (
            np.linalg.norm(two, axis=1, keepdims=True) + 1e-12
        )
        two = np.minimum(two * scale, one * _STOI_CLIP)
        one = one - one.mean(1, keepdims=True)
        two = two - two.mean(1, keepdims=True)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1) + 1e-12
        total += float(((one * two).sum(1) / norms).mean())
    return total / len(segments)
