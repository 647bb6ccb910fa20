"""The agent's sentences in a neural voice, every word at the start of a frame.

A language model learns a word as a row of codes, and a neural synthesizer speaks the same word
differently in every sentence. The 882 sums are therefore joined from 124 phrases, each synthesized
once, in a sum of its own: "Seven plus", "three is", "ten.". Both joints follow a sibilant, and the
sentences that the phrases are cut from continue with a stop, whose silence is the place to cut.
"""

from typing import Final, Protocol

import numpy as np

from pipeline.train.conversation.phrases import LARGEST_OPERAND, arithmetic_answer, in_words, plain
from pipeline.train.conversation.wording import Kind
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.train.synthesizers.spoken import SILENCE, Sound, Spoken
from pipeline.train.synthesizers.time_scale import on_frames
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_LOUDNESS: Final = 0.11  # root mean square of what is audible
_AUDIBLE: Final = 0.01  # of the loudest sample
_NEAR_SAMPLES: Final = SAMPLE_RATE_HZ // 40  # how far a word may begin from where the model says
_QUIET_SAMPLES: Final = SAMPLE_RATE_HZ // 200
_FADE_SAMPLES: Final = SAMPLE_RATE_HZ // 250
_EQUALS: Final = "is"
_OPERATORS: Final[dict[str, Kind]] = {"plus": "sum", "minus": "difference"}
_NUMBERS: Final = {in_words(number): number for number in range(-LARGEST_OPERAND, 2 * LARGEST_OPERAND + 1)}


class Timed(Protocol):
    """A synthesizer that knows where its words begin."""

    def timed(self, text: str, speaker: Speaker) -> Spoken:
        """`text`, with the start of each of its words."""


def _levelled(pcm: Pcm) -> Pcm:
    audible = np.abs(pcm) > _AUDIBLE * np.abs(pcm).max()
    level = float(np.sqrt(np.square(pcm[audible]).mean()))
    scaled: Pcm = (pcm * (_LOUDNESS / max(level, 1e-6))).astype(np.float32)
    return scaled


def quietest(pcm: Pcm, at: int) -> int:
    """The sample near `at` around which 5 ms are quietest; the nearest of equals."""
    first = max(0, at - _NEAR_SAMPLES)
    around = np.square(pcm[first : at + _NEAR_SAMPLES + _QUIET_SAMPLES])
    energy = np.convolve(around, np.ones(_QUIET_SAMPLES, np.float32), mode="valid")
    return first + int(np.argmin(energy)) + _QUIET_SAMPLES // 2 if len(energy) else at


def phrase_bounds(sentence: str) -> tuple[int, ...]:
    """Where its phrases begin, and where the last ends, in words: two of them to a sum, then the result."""
    words = sentence.split()
    is_sum = len(words) >= 5 and words[1] in _OPERATORS and words[3] == _EQUALS
    return (0, 2, 4, len(words)) if is_sum else (0, len(words))


def joined_phrases(phrases: list[Spoken]) -> Spoken:
    """Phrases of whole frames, one after the other, faded where they meet."""
    pieces, starts, at = [], [], 0
    ramp = np.linspace(0, 1, _FADE_SAMPLES, dtype=np.float32)
    for number, phrase in enumerate(phrases):
        piece = phrase.pcm.copy()
        if number:
            piece[:_FADE_SAMPLES] *= ramp
        if number + 1 < len(phrases):
            piece[-_FADE_SAMPLES:] *= ramp[::-1]
        pieces.append(piece)
        starts += [at + start for start in phrase.word_starts]
        at += len(piece)
    return Spoken(np.concatenate(pieces), tuple(starts), (Sound(SILENCE, 0),))


class AgentSpeech:
    """Speaks whatever the agent says; phrases are kept, as sums share them."""

    def __init__(self, synthesizer: Timed, speaker: Speaker) -> None:
        self._synthesizer, self._speaker = synthesizer, speaker
        self._phrases: dict[str, Spoken] = {}

    def speak(self, sentence: str) -> Spoken:
        """A sum joined from its phrases, any other sentence in one."""
        words = sentence.split()
        if len(phrase_bounds(sentence)) == 2:
            return self._phrase(sentence, 0, None)
        first, operator, second = (plain(word) for word in words[:3])
        result = _NUMBERS[plain(" ".join(words[4:]))]
        return joined_phrases(
            [
                self._opening(_NUMBERS[first], operator),
                self._middle(_NUMBERS[second]),
                self._result(result),
            ]
        )

    def _opening(self, number: int, operator: str) -> Spoken:
        return self._phrase(arithmetic_answer(_OPERATORS[operator], number, 2), 0, 2)

    def _middle(self, number: int) -> Spoken:
        return self._phrase(arithmetic_answer("sum", LARGEST_OPERAND - number, number), 2, 4)

    def _result(self, number: int) -> Spoken:
        if number < 0:
            return self._phrase(arithmetic_answer("difference", 0, -number), 4, None)
        first = min(number, LARGEST_OPERAND)
        return self._phrase(arithmetic_answer("sum", first, number - first), 4, None)

    def _phrase(self, carrier: str, begin: int, end: int | None) -> Spoken:
        """The words `[begin, end)` of a sentence, the last to its end."""
        name = f"{carrier} {begin}"
        if name not in self._phrases:
            spoken = self._synthesizer.timed(carrier, self._speaker)
            pcm, starts = _levelled(spoken.pcm), spoken.word_starts
            audible = np.flatnonzero(np.abs(pcm) > _AUDIBLE * np.abs(pcm).max())
            first = quietest(pcm, starts[begin]) if begin else max(int(audible[0]) - _FADE_SAMPLES, 0)
            last = int(audible[-1]) if end is None else quietest(pcm, starts[end])
            inside = tuple(max(start - first, 0) for start in starts[begin:end])
            self._phrases[name] = on_frames(Spoken(pcm[first:last], inside, (Sound(SILENCE, 0),)))
        return self._phrases[name]
