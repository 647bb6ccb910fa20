"""Timelines of conversations: who speaks when, and what the agent writes in which frame.

Frames are numbered as in the server: step k has the user's frame k as input and generates the agent's
frame k. The delay of an answer varies, so that a model that misses the first frame can still answer;
within a question the agent waits as long as the user pauses, because the question is not complete.
A question or "stop" interrupts it; "okay" and "mm hm" do not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from pipeline.train.conversation.phrases import LARGEST_OPERAND, complete_phrases, in_words
from pipeline.train.conversation.wording import ANSWERS, SHARES, Kind
from pipeline.train.recordings.bank import Utterance
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ

_WAITS: Final = (4, 5, 6, 7)  # frames after the one in which the user ended
_WAIT_SHARES: Final = (0.6, 0.25, 0.1, 0.05)
# Frames after the one in which the user began to interrupt: by then an "okay" would be over.
_YIELD_DELAYS: Final = (8, 9, 10)
_STOP_DELAYS: Final = (3, 4, 5)  # frames after the end of "stop"
_INTERRUPTED: Final = 0.12
_STOPPED: Final = 0.15
_BACKCHANNELLED: Final = 0.4  # answers during which the user says "okay"
_ALONE: Final = 0.25  # of utterances without an answer: those in silence
_PAUSES: Final = 0.3  # questions that have a pause inside
_PAUSE_S: Final = (0.1, 1.5)
_ABANDONED: Final = 0.04  # questions of which only the beginning is spoken
_SILENT: Final = 0.24  # sessions without a question
_LATE: Final = 0.15  # of the others, those whose first question comes late
_LEFT: Final = 0.2  # and those whose last question comes early
_BETWEEN: Final = 0.35  # of the gaps between two questions, those in which other people talk
_BETWEEN_S: Final = (1.5, 7.0)
_APART_S: Final = (0.3, 1.2)  # between the conversation and what is beside it
_SLIPS: Final = 0.35  # of the stretches of other people's talk, those in which the agent answers them
_FORMANT: Final = "en"  # how the names of espeak-ng's voices begin
_FORMANT_SHARE: Final = 0.2  # of questions, where there are natural voices as well
_NOTHING_BEFORE: Final = 0.2  # of the requests to say it again, where nothing was said, those that stay
_SHORT: Final = 12  # frames of an answer that is never interrupted
_UNANSWERED: Final = frozenset({"stop", "backchannel"})
NO_RESULT: Final = -100
_NUMBERS: Final = frozenset(in_words(number) for number in range(LARGEST_OPERAND + 1))

Frames = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UserSegment:
    """A stretch of a user's utterance `[begin, end)`, in samples, put `at` a sample of the session."""

    utterance: int
    begin: int
    end: int
    at: int


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """An answer from `frame` on, of which the first `frames` are spoken."""

    answer: str
    frame: int
    frames: int


@dataclass
class Session:
    """Who speaks when; by frame, the words the agent begins and those of the user that have ended.

    `results`: frames `[first, last]` in which the result of a sum can be known and is not yet spoken.
    `overheard`: samples `[begin, end)` in which there is no conversation, and others may talk.
    `slips`: frames in which the agent begins to answer others, which is not to be learned.
    """

    frames: int
    user_segments: list[UserSegment] = field(default_factory=list)
    agent_answers: list[AgentAnswer] = field(default_factory=list)
    words: list[tuple[int, str]] = field(default_factory=list)
    user_words: list[tuple[int, str]] = field(default_factory=list)
    results: list[tuple[int, int, int]] = field(default_factory=list)
    overheard: list[tuple[int, int]] = field(default_factory=list)
    slips: list[int] = field(default_factory=list)


def pauses(utterance: Utterance) -> list[int]:
    """Words of a sum before which one may pause, because what came before cannot be the whole question."""
    words = utterance.text.split()
    if utterance.operands is None or len(words) != len(utterance.word_starts):
        return []
    numbers = [index for index, word in enumerate(words) if word in _NUMBERS]
    if len(numbers) < 2:
        return []
    whole = complete_phrases()
    return [index for index in range(1, numbers[1] + 1) if " ".join(words[:index]) not in whole]


def _speak(
    rng: np.random.Generator, session: Session, users: Sequence[Utterance], which: int, at: int
) -> tuple[int, bool]:
    """Put an utterance at a sample, perhaps with a pause inside; gives its end, and whether it is whole."""
    utterance = users[which]
    places = pauses(utterance)
    starts = [at + start for start in utterance.word_starts]
    end, words, whole = at + utterance.samples, utterance.text.split(), True
    if places and rng.random() < _ABANDONED:
        before = int(rng.choice(places))
        cut = utterance.word_starts[before]
        session.user_segments.append(UserSegment(which, 0, cut, at))
        starts, words, end, whole = starts[:before], words[:before], at + cut, False
    elif places and rng.random() < _PAUSES:
        before = int(rng.choice(places))
        pause = int(rng.uniform(*_PAUSE_S) * SAMPLE_RATE_HZ)
        cut = utterance.word_starts[before]
        session.user_segments.append(UserSegment(which, 0, cut, at))
        session.user_segments.append(UserSegment(which, cut, utterance.samples, at + cut + pause))
        starts = [start + pause * (index >= before) for index, start in enumerate(starts)]
        end += pause
    else:
        session.user_segments.append(UserSegment(which, 0, utterance.samples, at))
    if len(words) == len(starts):
        for word, ended in zip(words, (*starts[1:], end), strict=True):
            session.user_words.append((ended // FRAME_SAMPLES + 1, word))
    return end, whole


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that was asked, and its answer."""

    asked: Utterance
    answer: Utterance


def _answer(session: Session, turn: Turn, frame: int, frames: int) -> None:
    frames = min(frames, session.frames - frame)  # what is left of the session
    if frames <= 0:
        return
    session.agent_answers.append(AgentAnswer(turn.answer.text, frame, frames))
    words = [
        (frame + start // FRAME_SAMPLES, word)
        for word, start in zip(turn.answer.text.split(), turn.answer.word_starts, strict=True)
        if start // FRAME_SAMPLES < frames
    ]
    session.words += words
    if turn.asked.operands is not None:
        a, b = turn.asked.operands
        known = next((at for (_, word), (at, _) in pairwise(words) if word == "is"), frame + frames - 1)
        session.results.append((frame, known, a + b if turn.asked.kind == "sum" else a - b))


class Questions:
    """The users' utterances, grouped by kind and by the kind of voice."""

    def __init__(self, users: Sequence[Utterance]) -> None:
        self.users = users
        asked = [index for index, one in enumerate(users) if one.kind not in _UNANSWERED]
        formant = {index for index in asked if users[index].voice.startswith(_FORMANT)}
        voices = [group for group in (sorted(set(asked) - formant), sorted(formant)) if group]
        self._shares = (1 - _FORMANT_SHARE, _FORMANT_SHARE) if len(voices) == 2 else (1.0,)
        self._groups = [self._by_kind(group) for group in voices]
        self._unanswered = {
            kind: [index for index, one in enumerate(users) if one.kind == kind] for kind in _UNANSWERED
        }

    def _by_kind(self, which: Sequence[int]) -> dict[Kind, list[int]]:
        groups: dict[Kind, list[int]] = {kind: [] for kind in SHARES}
        for index in which:
            groups[cast("Kind", self.users[index].kind)].append(index)
        return {kind: group for kind, group in groups.items() if group}

    def question(self, rng: np.random.Generator, *, again: bool = True) -> int:
        """Something to be answered, each kind as often as it is asked; `again`: also to say it again."""
        groups = self._groups[int(rng.choice(len(self._groups), p=self._shares))]
        kinds = [kind for kind in groups if again or kind != "repeat"] or list(groups)
        shares = np.array([SHARES[kind] for kind in kinds])
        group = groups[kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]]
        return group[int(rng.integers(len(group)))]

    def other(self, rng: np.random.Generator, kind: str, share: float) -> int | None:
        """By chance, an utterance of a kind that is not answered, if there is any."""
        known = self._unanswered[kind]
        return known[int(rng.integers(len(known)))] if known and rng.random() < share else None


def compose(
    rng: np.random.Generator, questions: Questions, answers: Mapping[str, Utterance], frames: int
) -> Session:
    """A session of so many frames in which users ask one thing after another."""
    session = Session(frames)
    if rng.random() < _SILENT:
        session.overheard = [(0, frames * FRAME_SAMPLES)]
        return session
    last = (frames - 20) * FRAME_SAMPLES
    at, until = _stay(rng, session, last)
    before: Turn | None = None  # the last complete answer
    interrupting = False
    while at < (last if interrupting else until):
        alone = None if interrupting else questions.other(rng, "backchannel", _ALONE * _BACKCHANNELLED)
        if alone is None:
            again = before is not None or rng.random() < _NOTHING_BEFORE
            which = questions.question(rng, again=again)
        else:
            which = alone
        asked = questions.users[which]
        end, whole = _speak(rng, session, questions.users, which, at)
        if alone is not None or not whole:
            at, interrupting = end + int(rng.uniform(1.7, 3.5) * SAMPLE_RATE_HZ), False
            continue
        if asked.kind == "repeat":
            turn = before or Turn(asked, answers[ANSWERS["unknown"]])
        else:
            turn = Turn(asked, answers[asked.answer])
        onset = (end - 1) // FRAME_SAMPLES + int(rng.choice(_WAITS, p=_WAIT_SHARES))
        if session.agent_answers:  # after a short interruption the agent may not have stopped yet
            onset = max(onset, session.agent_answers[-1].frame + session.agent_answers[-1].frames + 1)
        response = _respond(rng, session, questions, turn, onset)
        at, interrupting = response.resume_at, response.interrupted
        before = turn if response.complete else before
        if not interrupting and at < until and rng.random() < _BETWEEN:
            at = _leave(rng, session, at, rng.uniform(*_BETWEEN_S))
    if until < last:
        _leave(rng, session, at, math.inf)
    return session


def _stay(rng: np.random.Generator, session: Session, last: int) -> tuple[int, int]:
    """The samples from which and until which users ask, of those before `last`."""
    stay = rng.random()
    if stay < _LATE:
        late_s = rng.uniform(0.2, 0.5) * last / SAMPLE_RATE_HZ
        return _leave(rng, session, 0, late_s), last
    first = int(rng.uniform(0.2, 2.5) * SAMPLE_RATE_HZ)
    return first, int(rng.uniform(0.15, 0.6) * last) if stay < _LATE + _LEFT else last


def _leave(rng: np.random.Generator, session: Session, at: int, seconds: float) -> int:
    """Leave a stretch to others, some time after the sample `at`; gives where the conversation goes on."""
    whole = session.frames * FRAME_SAMPLES
    begin = at + int(rng.uniform(*_APART_S) * SAMPLE_RATE_HZ) if at else 0
    end = int(min(whole, begin + seconds * SAMPLE_RATE_HZ))
    if end > begin:
        session.overheard.append((begin, end))
    return end + int(rng.uniform(0.2, 2.5) * SAMPLE_RATE_HZ)


def slip(
    rng: np.random.Generator,
    session: Session,
    sentences: Sequence[tuple[int, Utterance]],
    answers: Mapping[str, Utterance],
    end: int,
) -> None:
    """By chance, let the agent answer one of their `sentences`, each with the sample of its end.

    With one such answer in its context a model goes on to answer, unless it has learned to be silent
    again. The answer is over before the sample `end`.
    """
    if not sentences or rng.random() >= _SLIPS:
        return
    ended, asked = sentences[int(rng.integers(len(sentences)))]
    answer = answers[asked.answer or ANSWERS["unknown"]]
    frame = (ended - 1) // FRAME_SAMPLES + int(rng.choice(_WAITS, p=_WAIT_SHARES))
    frames = answer.samples // FRAME_SAMPLES
    if frame + frames <= end // FRAME_SAMPLES:
        session.slips.append(frame)
        _answer(session, Turn(asked, answer), frame, frames)


class Response(NamedTuple):
    """The sample at which the user goes on; whether that interrupts the answer; whether it was complete."""

    resume_at: int
    interrupted: bool
    complete: bool


def _respond(
    rng: np.random.Generator, session: Session, questions: Questions, turn: Turn, onset: int
) -> Response:
    """Let the agent answer from the frame `onset` on, to its end or until it is interrupted."""
    length = turn.answer.samples // FRAME_SAMPLES
    after = int((onset + length) * FRAME_SAMPLES + rng.uniform(0.2, 2.5) * SAMPLE_RATE_HZ)
    if length <= _SHORT:
        _answer(session, turn, onset, length)
        return Response(after, interrupted=False, complete=True)
    inside = int(rng.uniform(onset + 3, onset + length - 8) * FRAME_SAMPLES)
    stop = questions.other(rng, "stop", _STOPPED)
    if stop is not None:
        end, _ = _speak(rng, session, questions.users, stop, inside)
        frames = min(length, end // FRAME_SAMPLES + int(rng.choice(_STOP_DELAYS)) - onset)
        _answer(session, turn, onset, frames)
        silent = max(end, (onset + frames) * FRAME_SAMPLES)
        resume_at = silent + int(rng.uniform(0.8, 3) * SAMPLE_RATE_HZ)
        return Response(resume_at, interrupted=False, complete=frames == length)
    if rng.random() < _INTERRUPTED:
        frames = min(length, inside // FRAME_SAMPLES + int(rng.choice(_YIELD_DELAYS)) - onset)
        _answer(session, turn, onset, frames)
        return Response(inside, interrupted=True, complete=frames == length)
    backchannel = questions.other(rng, "backchannel", _BACKCHANNELLED)
    _answer(session, turn, onset, length)
    if backchannel is not None:
        end, _ = _speak(rng, session, questions.users, backchannel, inside)
        after = max(after, end + SAMPLE_RATE_HZ // 2)
    return Response(after, interrupted=False, complete=True)


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
