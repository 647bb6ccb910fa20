"""Output of a synthesizer: samples, and the start of every word and phoneme."""

from dataclasses import dataclass
from typing import Final

from pipeline.values import Pcm

SILENCE: Final = "_"


@dataclass(frozen=True, slots=True)
class Sound:
    """A phoneme from `start` up to the next one's, in samples; `SILENCE` between words."""

    phoneme: str
    start: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """`pcm [S]` at 24 kHz without silence at its ends; each word's first sample; what sounds when."""

    pcm: Pcm
    word_starts: tuple[int, ...]
    sounds: tuple[Sound, ...]
