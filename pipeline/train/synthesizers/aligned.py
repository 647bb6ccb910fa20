"""The agent's diction: every word begins with a frame.

A language model learns a word as a row of codes. Were words to begin anywhere in a frame, each
would have as many spellings as there are places; waiting in the silence before it, at most one
frame, gives it one. The melody of the sentence stays, because only silence is inserted.
"""

from typing import Final

import numpy as np

from pipeline.train.synthesizers.spoken import SILENCE, Sound, Spoken
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import Pcm

_FADE_SAMPLES: Final = 48
_GAP_SAMPLES: Final = SAMPLE_RATE_HZ // 50
_SILENT: Final = 1e-3


def _word(pcm: Pcm) -> Pcm:
    """Whole frames, from the first sound on; starting and ending at zero."""
    audible = np.flatnonzero(np.abs(pcm) > _SILENT)
    word = pcm[audible[0] : audible[-1] + 1].copy()
    ramp = np.linspace(0, 1, _FADE_SAMPLES, dtype=np.float32)
    word[:_FADE_SAMPLES] *= ramp
    word[-_FADE_SAMPLES:] *= ramp[::-1]
    return np.pad(word, (0, -len(word) % FRAME_SAMPLES))


def _silent(pcm: Pcm, at: int) -> bool:
    """Whether the word that begins `at` is apart from the one before it."""
    around = np.abs(pcm[max(at - _GAP_SAMPLES, 0) : at + _GAP_SAMPLES])
    return at == 0 or bool((around < _SILENT).sum() >= _FADE_SAMPLES)


def aligned(spoken: Spoken) -> Spoken:
    """The same speech with each word at the start of a frame; of words spoken as one, the first."""
    pieces: list[Pcm] = []
    word_starts: list[int] = []
    at = 0
    apart = [start for start in spoken.word_starts if _silent(spoken.pcm, start)]
    for start, end in zip(apart, (*apart[1:], len(spoken.pcm)), strict=True):
        inside = [word for word in spoken.word_starts if start <= word < end]
        word_starts += [at + (word - start) // FRAME_SAMPLES * FRAME_SAMPLES for word in inside]
        pieces.append(_word(spoken.pcm[start:end]))
        at += len(pieces[-1])
    return Spoken(np.concatenate(pieces), tuple(word_starts), (Sound(SILENCE, 0),))
