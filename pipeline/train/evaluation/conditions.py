"""What an evaluation asks: recordings of held-out voices, under one condition after another."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from pipeline.train.conversation.phrases import plain
from pipeline.train.conversation.sessions import pauses
from pipeline.train.evaluation.trial import Question
from pipeline.train.recordings.bank import Shard, Utterance, read_shard
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

Aside = Literal["backchannel", "stop"]
FORMANT: Final = "espeak"
_ASIDE_S: Final = 1.1  # after the end of a question: the agent has begun, and has not finished
_SHORTEST_S: Final = 1.6  # of an answer that a user may interrupt


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table: which recordings, how much noise, a pause inside, a word during the answer.

    `repeated`: each question is followed by "say that again", and only the answer to that is counted.
    """

    name: str
    shard: str
    snr_db: float | None = None
    pause_s: float = 0.0
    aside: Aside | None = None
    repeated: bool = False


CONDITIONS: Final = (
    Condition("sums", "eval-sums"),
    Condition("other questions", "eval-talk"),
    Condition("unseen pairs", "eval-pairs"),
    Condition("unseen phrasings", "eval-phrasings"),
    Condition("noise 20 dB below", "eval-sums", snr_db=20),
    Condition("noise 10 dB below", "eval-sums", snr_db=10),
    Condition("a pause of 1 s inside", "eval-sums", pause_s=1.0),
    Condition('"um" inside', "eval-fillers"),
    Condition("a number corrected", "eval-corrections"),
    Condition("outside its domain", "eval-refusals"),
    Condition('"okay" during the answer', "eval-sums", aside="backchannel"),
    Condition('"stop" during the answer', "eval-sums", aside="stop"),
    Condition('"say that again"', "eval-sums", repeated=True),
    Condition("formant voices, all held out", "held-out-all"),
)


def family(utterance: Utterance) -> str:
    """The synthesizer that spoke it."""
    name, _, voice = utterance.voice.partition("/")
    return name if voice else FORMANT


def with_pause(pcm: Pcm, utterance: Utterance, seconds: float) -> Pcm:
    """`pcm` with silence before the last word before which one may pause; as it is, if there is none."""
    places = pauses(utterance)
    if not places:
        return pcm
    cut = utterance.word_starts[places[-1]]
    return np.concatenate([pcm[:cut], np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32), pcm[cut:]])


def questions(corpus: Path, condition: Condition, count: int) -> list[Question]:
    """The first `count` questions of a condition.

    Raises:
        CorpusError: they are not recorded.
    """
    shard = read_shard(corpus, condition.shard)
    asides = _asides(corpus, condition.aside)
    again = _asides(corpus, "repeat" if condition.repeated else None)
    agent = read_shard(corpus, "agent") if condition.aside else None
    long_enough = _lengths(agent) if agent else {}
    asked: list[Question] = []
    for index, one in enumerate(shard.utterances):
        if sum(question.counted for question in asked) == count:
            break
        if not one.answer or (agent and long_enough.get(one.answer, 0.0) < _SHORTEST_S):
            continue
        pcm = shard.recording(index)
        pcm = with_pause(pcm, one, condition.pause_s) if condition.pause_s else pcm
        aside = next(asides, None)
        pcm_aside = None if aside is None else aside.pcm
        asked.append(Question(pcm, one.answer, one.text, family(one), pcm_aside, _ASIDE_S))
        request = next(again, None)
        if request is not None:
            asked[-1] = replace(asked[-1], counted=False)
            asked.append(replace(request, answer=one.answer))
    return asked


def _lengths(agent: Shard) -> dict[str, float]:
    return {one.text: one.samples / SAMPLE_RATE_HZ for one in agent.utterances}


def _asides(corpus: Path, kind: Aside | Literal["repeat"] | None) -> Iterator[Question]:
    """Recordings of a kind used during or after answers, cycled."""
    if kind is None:
        return
    shard = read_shard(corpus, "eval-manners")
    which = [index for index, one in enumerate(shard.utterances) if one.kind == kind]
    while which:
        for index in which:
            one = shard.utterances[index]
            yield Question(shard.recording(index), "", one.text, family(one))


def voices(corpus: Path) -> list[Pcm]:
    """Sentences not addressed to the agent, for background talk."""
    shard = read_shard(corpus, "eval-refusals")
    return [shard.recording(index) for index in range(len(shard.utterances))]


def is_answer(text: str, expected: str) -> bool:
    """Whether the agent wrote the whole expected sentence and nothing else; capitals and stops aside."""
    return plain(text).strip() == plain(expected)
