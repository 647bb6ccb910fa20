"""Words of continuous speech moved onto the grid of frames, by changing their durations a little.

`aligned` inserts silence between words, which a natural voice does not leave. Here each word is made
as long as a whole number of frames, by waveform similarity overlap-add: durations change, pitch
does not (WSOLA, Verhelst and Roelands 1993).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import Pcm

_HOP: Final = SAMPLE_RATE_HZ // 100
_WINDOW: Final = 2 * _HOP
_SEARCH: Final = SAMPLE_RATE_HZ // 150  # a period of the lowest voice


def time_scaled(pcm: Pcm, source: npt.NDArray[np.float64]) -> Pcm:
    """`source [S']`: the sample of `pcm` that is to sound at each sample of the result, never decreasing."""
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(pcm, (_WINDOW + _SEARCH, 2 * _WINDOW + 2 * _SEARCH))
    origin = _WINDOW + _SEARCH
    scaled = np.zeros(len(source) + 2 * _WINDOW, np.float32)
    total = np.zeros_like(scaled)
    follows: int | None = None  # where the segment before goes on in `padded`
    for at in range(-_HOP, len(source), _HOP):
        ideal = origin + round(float(source[min(max(at, 0), len(source) - 1)])) + min(at, 0)
        start = ideal if follows is None else _most_similar(padded, follows, ideal)
        place = slice(at + _HOP, at + _HOP + _WINDOW)
        scaled[place] += window * padded[start : start + _WINDOW]
        total[place] += window
        follows = start + _HOP
    result: Pcm = (scaled / np.maximum(total, 1e-3))[_HOP : _HOP + len(source)].astype(np.float32)
    return result


def _most_similar(padded: Pcm, follows: int, ideal: int) -> int:
    """The start near `ideal` whose segment is most like the one that follows the segment before."""
    if follows == ideal:
        return ideal
    continuation = padded[follows : follows + _WINDOW]
    around = padded[ideal - _SEARCH : ideal + _SEARCH + _WINDOW]
    likeness = np.correlate(around, continuation, mode="valid")
    energy = np.sqrt(np.convolve(around**2, np.ones(_WINDOW, np.float32), mode="valid")) + 1e-4
    return ideal - _SEARCH + int(np.argmax(likeness / energy))


def on_frames(spoken: Spoken) -> Spoken:
    """The same speech with every word at the start of a frame, each as many frames as come nearest."""
    edges = np.array([*spoken.word_starts, len(spoken.pcm)])
    edges[0] = 0
    frames = np.maximum(1, np.round(np.diff(edges) / FRAME_SAMPLES)).astype(int)
    ends = np.cumsum(frames) * FRAME_SAMPLES
    moved = np.concatenate([[0], ends])
    source = np.interp(np.arange(ends[-1]), moved, edges)

    def at(sample: int) -> int:
        return round(float(np.interp(sample, edges, moved)))

    sounds = tuple(Sound(sound.phoneme, at(sound.start)) for sound in spoken.sounds)
    return Spoken(time_scaled(spoken.pcm, source), tuple(int(start) for start in moved[:-1]), sounds)
