"""All synthesizers behind one call: text and speaker to samples with the time of every word."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import soxr

from pipeline.train.conversation.phrases import plain
from pipeline.train.synthesizers.espeak import Synthesizer
from pipeline.train.synthesizers.kokoro import Kokoro
from pipeline.train.synthesizers.piper import Piper
from pipeline.train.synthesizers.programs import festival, flite
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.train.synthesizers.spoken import Spoken
from pipeline.train.synthesizers.voices import Voice
from pipeline.train.synthesizers.word_times import timed
from pipeline.values import Pcm

_PEAK: Final = 0.7
_TRACT_STEPS: Final = 1000  # resampling takes whole rates


def with_tract(pcm: Pcm, tract: float) -> Pcm:
    """`pcm` as from a vocal tract shorter by `tract`: formants and pitch go up, and it is as much shorter."""
    if tract == 1:
        return pcm
    shorter: Pcm = soxr.resample(pcm, round(tract * _TRACT_STEPS), _TRACT_STEPS)
    return shorter.astype(np.float32)


class Synthesizers:
    """The synthesizers, each started when it is first needed."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._espeak = Synthesizer()
        self._kokoro: Kokoro | None = None
        self._piper: Piper | None = None

    def synthesize(self, text: str, speaker: Speaker, mark: str = "") -> Spoken:
        """`text`, commas in it read as pauses, `mark` at its end; the words are those of `plain(text)`."""
        slower = replace(speaker, pace=speaker.pace / speaker.tract)  # what a shorter tract makes up for
        pcm = with_tract(self._render(text + mark, slower), speaker.tract)
        known = self._espeak.synthesize(plain(text), Voice("en-us", speed=160, pitch=50))
        return timed(pcm / max(float(np.abs(pcm).max()), 1e-6) * _PEAK, known)

    def timed(self, text: str, speaker: Speaker) -> Spoken:
        """`text` as a neural voice speaks it, unscaled, with the times that the model itself reports.

        Raises:
            ValueError: some words were spoken as one.
        """
        spoken = self._neural().timed(text, speaker)
        if len(spoken.word_starts) != len(text.split()):
            raise ValueError(f"{text!r} was spoken in {len(spoken.word_starts)} words")
        return spoken

    def _neural(self) -> Kokoro:
        self._kokoro = self._kokoro or Kokoro(self._cache)
        return self._kokoro

    def _render(self, text: str, speaker: Speaker) -> Pcm:
        if speaker.family == "kokoro":
            return self._neural().synthesize(text, speaker)
        if speaker.family == "piper":
            self._piper = self._piper or Piper(self._cache)
            return self._piper.synthesize(text, speaker)
        if speaker.family == "espeak":
            return self._espeak.synthesize(
                text, Voice(speaker.voice, speed=speaker.speed * 165 // 100, pitch=50)
            ).pcm
        return (flite if speaker.family == "flite" else festival)(text, speaker)
