"""Conversations laid out in time: who speaks when, and what the agent writes in which frame.

Frames count as the server counts them: step k hears the user's frame k and says the agent's
frame k. The agent waits a little longer than anyone pauses inside a question, never always
the same, or a model that missed its moment would have no other. Interrupted, it stops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.train.recordings.bank import Utterance
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ

_WAITS: Final = (4, 5, 6, 7)  # frames after the one in which the user ended
_WAIT_SHARES: Final = (0.6, 0.25, 0.1, 0.05)
_STOPS: Final = (4, 5, 6)  # frames after the one in which the user began to interrupt
_INTERRUPTED: Final = 0.15
_HESITATES: Final = 0.2
_SILENT: Final = 0.06  # sessions in which nobody speaks
_OPERATORS: Final = frozenset({"plus", "minus", "take", "and", "from"})
NO_RESULT: Final = -100

Frames = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Said:
    """A stretch of a user's utterance `[begin, end)`, in samples, put `at` a sample of the session."""

    utterance: int
    begin: int
    end: int
    at: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer from `frame` on, of which the first `frames` are said."""

    answer: str
    frame: int
    frames: int


@dataclass
class Session:
    """Who speaks when; by frame, the words the agent begins and those of the user that have ended.

    `results`: frames `[first, last]` in which the result of a sum can be known and is not yet said.
    """

    frames: int
    said: list[Said] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    words: list[tuple[int, str]] = field(default_factory=list)
    heard: list[tuple[int, str]] = field(default_factory=list)
    results: list[tuple[int, int, int]] = field(default_factory=list)


def hesitation(utterance: Utterance) -> int | None:
    """A word before which one may pause, because what came before cannot be the whole question."""
    words = utterance.text.split()
    if utterance.operands is None or len(words) != len(utterance.word_starts):
        return None
    return next((i for i, word in enumerate(words) if i and word in _OPERATORS), None)


def _speak(
    rng: np.random.Generator, session: Session, users: Sequence[Utterance], which: int, at: int
) -> int:
    """Put an utterance at a sample, perhaps with a pause inside; gives the sample at which it ends."""
    utterance = users[which]
    before = hesitation(utterance)
    starts = [at + start for start in utterance.word_starts]
    end = at + utterance.samples
    if before is None or rng.random() > _HESITATES:
        session.said.append(Said(which, 0, utterance.samples, at))
    else:
        pause = int(rng.uniform(0.1, 0.8) * SAMPLE_RATE_HZ)
        cut = utterance.word_starts[before]
        session.said.append(Said(which, 0, cut, at))
        session.said.append(Said(which, cut, utterance.samples, at + cut + pause))
        starts = [start + pause * (index >= before) for index, start in enumerate(starts)]
        end += pause
    words = utterance.text.split()
    if len(words) == len(starts):
        for word, ended in zip(words, (*starts[1:], end), strict=True):
            session.heard.append((ended // FRAME_SAMPLES + 1, word))
    return end


def _answer(session: Session, asked: Utterance, answer: Utterance, frame: int, frames: int) -> None:
    frames = min(frames, session.frames - frame)  # what is left of the session
    if frames <= 0:
        return
    session.answered.append(Answered(answer.text, frame, frames))
    words = [
        (frame + start // FRAME_SAMPLES, word)
        for word, start in zip(answer.text.split(), answer.word_starts, strict=True)
        if start // FRAME_SAMPLES < frames
    ]
    session.words += words
    if asked.operands is not None:
        a, b = asked.operands
        known = next((at for (_, before), (at, _) in pairwise(words) if before == "is"), frame + frames - 1)
        session.results.append((frame, known, a + b if asked.kind == "sum" else a - b))


def compose(
    rng: np.random.Generator, users: Sequence[Utterance], answers: Mapping[str, Utterance], frames: int
) -> Session:
    """A session of so many frames in which users ask one thing after another."""
    session = Session(frames)
    if rng.random() < _SILENT:
        return session
    at = int(rng.uniform(0.2, 2.5) * SAMPLE_RATE_HZ)
    while at < (frames - 20) * FRAME_SAMPLES:
        which = int(rng.integers(len(users)))
        end = _speak(rng, session, users, which, at)
        answer = answers[users[which].answer]
        length = answer.samples // FRAME_SAMPLES
        onset = (end - 1) // FRAME_SAMPLES + int(rng.choice(_WAITS, p=_WAIT_SHARES))
        if rng.random() < _INTERRUPTED and length > 8:
            at = int(rng.uniform(onset + 3, onset + length - 4) * FRAME_SAMPLES)
            stop = at // FRAME_SAMPLES + int(rng.choice(_STOPS))
            _answer(session, users[which], answer, onset, min(length, stop - onset))
        else:
            _answer(session, users[which], answer, onset, length)
            at = int((onset + length) * FRAME_SAMPLES + rng.uniform(0.2, 2.5) * SAMPLE_RATE_HZ)
    return session


def results_by_frame(session: Session) -> Frames:
    """`[frames]`: the result that can be known in a frame, or `NO_RESULT`."""
    row = np.full(session.frames, NO_RESULT, np.int64)
    for first, last, result in session.results:
        row[first : last + 1] = result
    return row


def by_frame(
    events: Sequence[tuple[int, str]], numbers: Mapping[str, int], frames: int, other: int
) -> Frames:
    """`[frames]`: each event's number in its frame, or the next free one; `other` for the unlisted."""
    row = np.zeros(frames, np.int64)
    for frame, word in sorted(events):
        while frame < frames and row[frame]:
            frame += 1  # noqa: PLW2901 - the next free one
        if frame < frames:
            row[frame] = numbers.get(word, other)
    return row
