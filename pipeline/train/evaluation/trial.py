"""Asks a running server questions as a client would, and keeps what it answered, and when.

The client is `pipeline.talking`, at the pace of a microphone. What is wanted and what
counts as right: `evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import trio

from pipeline.talking.client import Audience, converse
from pipeline.talking.report import Report
from pipeline.talking.speech import Speech, now_ns, paced
from pipeline.train.evaluation.measures import spoken_from
from pipeline.units import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import Pcm

_LEAD_S: Final = 1.0
_ANSWER_S: Final = 5.0  # from the end of a question to the next one
_LOUDNESS: Final = 0.08  # root mean square of a question


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the whole sentence that answers it."""

    pcm: Pcm
    answer: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came in the time of one question; `latency_ms` from its last sample to the first sound."""

    wanted: str
    text: str
    sound: Pcm
    latency_ms: float | None


@dataclass
class _Ear(Audience):
    """Everything that came, with the instant of its arrival."""

    frames: list[tuple[int, Pcm]] = field(default_factory=list)
    texts: list[tuple[int, str, bool]] = field(default_factory=list)
    began_ns: int = 0

    def agent_spoke(self, pcm: Pcm) -> None:
        self.frames.append((now_ns(), pcm))

    def agent_wrote(self, text: str, *, final: bool) -> None:
        self.texts.append((now_ns(), text, final))

    async def listened_to(self, pcm: Pcm) -> Speech:
        """`pcm`, as from a microphone; remembers when its first sample was."""
        async for captured in paced(pcm):
            if not self.began_ns:
                self.began_ns = captured.at_ns - FRAME_MS * 1_000_000
            yield captured

    def between(self, start_s: float, end_s: float) -> tuple[str, Pcm, float | None]:
        """What was written and heard from one instant of the session to another, and after how long."""
        low, high = (self.began_ns + round(s * 1e9) for s in (start_s, end_s))
        spoken = [(at, pcm) for at, pcm in self.frames if low <= at < high]
        pcm = np.concatenate([np.zeros(0, np.float32), *(frame for _, frame in spoken)])
        first = spoken_from(pcm)
        heard_ms = None
        if first is not None:
            at_ns = spoken[first // FRAME_SAMPLES][0] - low
            heard_ms = at_ns / 1e6 + first % FRAME_SAMPLES / SAMPLE_RATE_HZ * 1e3
        return self._written(low, high), pcm, heard_ms

    def _written(self, low: int, high: int) -> str:
        closed, open_text = [], ""
        for at, text, final in self.texts:
            if not low <= at < high:
                continue
            if final:
                # An utterance may be closed long after its last word; the words were the partial's.
                if open_text:
                    closed.append(text)
                open_text = ""
            else:
                open_text = text
        return " / ".join([*closed, *([open_text] if open_text else [])])


def _at_level(pcm: Pcm) -> Pcm:
    loud = pcm[np.abs(pcm) > 1e-3]
    return (pcm * (_LOUDNESS / max(1e-6, float(np.sqrt((loud**2).mean()))))).astype(np.float32)


def noise(rng: np.random.Generator, samples: int) -> Pcm:
    """Pink noise with the murmur of a fan, of unit loudness: none of the kinds made for training."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    spectrum /= np.sqrt(np.maximum(frequency, 30))
    time_s = np.arange(samples) / SAMPLE_RATE_HZ
    sound = np.fft.irfft(spectrum, samples)
    sound = sound / sound.std()
    for harmonic in range(1, 6):
        sound += 0.4 / harmonic * np.sin(2 * np.pi * (117 * harmonic * time_s + rng.random()))
    unit: Pcm = (sound / np.sqrt((sound**2).mean())).astype(np.float32)
    return unit


async def ask(
    url: str, questions: Sequence[Question], snr_db: float | None, seed: int
) -> tuple[list[Outcome], Report]:
    """One session, one question after the other; noise `snr_db` below the voice, or none."""
    gap = np.zeros(round(_ANSWER_S * SAMPLE_RATE_HZ), np.float32)
    pieces: list[Pcm] = [np.zeros(round(_LEAD_S * SAMPLE_RATE_HZ), np.float32)]
    ends: list[int] = []
    for question in questions:
        pieces.append(_at_level(question.pcm))
        ends.append(sum(map(len, pieces)))
        pieces.append(gap)
    pcm = np.concatenate(pieces)
    if snr_db is not None:
        pcm = pcm + noise(np.random.default_rng(seed), len(pcm)) * _LOUDNESS * 10 ** (-snr_db / 20)
    ear = _Ear()
    report = await converse(url, ear.listened_to(pcm.clip(-1, 1).astype(np.float32)), audience=ear)
    outcomes = []
    for question, end in zip(questions, ends, strict=True):
        text, sound, heard_ms = ear.between(end / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ + _ANSWER_S)
        outcomes.append(Outcome(question.answer, text, sound, heard_ms))
    return outcomes, report


async def say_nothing(url: str, seconds: float, level_db: float | None, seed: int) -> list[str]:
    """A session of silence, or of noise at a level; gives what the agent said in it."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    pcm = np.zeros(samples, np.float32)
    if level_db is not None:
        pcm = noise(np.random.default_rng(seed), samples) * np.float32(10 ** (level_db / 20))
    ear = _Ear()
    await converse(url, ear.listened_to(pcm.clip(-1, 1)), audience=ear)
    said = [text for _, text, final in ear.texts if final]
    sound = np.concatenate([np.zeros(0, np.float32), *(frame for _, frame in ear.frames)])
    return said or (["(a sound)"] if spoken_from(sound) is not None else [])


async def several(limit: int, jobs: Sequence["Job"]) -> None:
    """Run jobs, at most `limit` at a time."""
    room = trio.CapacityLimiter(limit)

    async def one(job: "Job") -> None:
        async with room:
            await job.run()

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(one, job)


@dataclass
class Job:
    """A session to hold, and what came of it."""

    url: str
    questions: Sequence[Question]
    snr_db: float | None
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self) -> None:
        """Hold it."""
        self.outcomes, _ = await ask(self.url, self.questions, self.snr_db, self.seed)
