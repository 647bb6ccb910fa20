"""Sends questions to a running server as a client would, and records its answers with their times.

The client is `pipeline.client`, at the pace of a microphone. What is asked: `conditions`; what
counts as right: `evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import trio

from pipeline.audio.framing import Framer
from pipeline.client.report import Report
from pipeline.client.session import EventHandler, converse
from pipeline.client.source import AudioSource, now_ns, paced
from pipeline.stages.model_stages import ModelStages
from pipeline.train.evaluation.interference import noise
from pipeline.train.evaluation.measures import spoken_from
from pipeline.units import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import Pcm, SamplingParams, TextFinal

_LANE: Final = 0
_LEAD_S: Final = 1.0
_ANSWER_S: Final = 5.0  # from the end of a question to the next one
_LOUDNESS: Final = 0.08  # root mean square of a question


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the whole sentence that answers it.

    `aside` is sent `aside_s` after the end of the question, while the agent answers. One that is
    not `counted` is only asked so that the next one can refer to it.
    """

    pcm: Pcm
    answer: str
    text: str = ""
    family: str = ""
    aside: Pcm | None = None
    aside_s: float = 0.0
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was received in the time of one question; `latency_ms` from its last sample to the first sound.

    `asked` is the question as it was sent, with what is behind it; `silent_ms` the time from the end
    of the aside, if there was one, to the last sound of the agent.
    """

    question: Question
    text: str
    sound: Pcm
    latency_ms: float | None
    asked: Pcm
    silent_ms: float | None = None


@dataclass
class _ResponseRecorder(EventHandler):
    """Records every audio frame and text of the server with its arrival time."""

    frames: list[tuple[int, Pcm]] = field(default_factory=list)
    texts: list[tuple[int, str, bool]] = field(default_factory=list)
    began_ns: int = 0

    def on_audio(self, pcm: Pcm) -> None:
        self.frames.append((now_ns(), pcm))

    def on_text(self, text: str, *, final: bool) -> None:
        self.texts.append((now_ns(), text, final))

    async def spoken(self, pcm: Pcm) -> AudioSource:
        """`pcm`, as from a microphone; remembers when its first sample was."""
        async for captured in paced(pcm):
            if not self.began_ns:
                self.began_ns = captured.at_ns - FRAME_MS * 1_000_000
            yield captured

    def between(self, start_s: float, end_s: float) -> tuple[str, Pcm, float | None, float | None]:
        """Text and audio received between two times; when speech began and ended, in ms."""
        low, high = (self.began_ns + round(s * 1e9) for s in (start_s, end_s))
        received = [(at, pcm) for at, pcm in self.frames if low <= at < high]
        pcm = np.concatenate([np.zeros(0, np.float32), *(frame for _, frame in received)])
        first, last = spoken_from(pcm), spoken_from(pcm[::-1])

        def at_ms(sample: int) -> float:
            arrived_ns = received[sample // FRAME_SAMPLES][0] - low
            return arrived_ns / 1e6 + sample % FRAME_SAMPLES / SAMPLE_RATE_HZ * 1e3

        begins = None if first is None else at_ms(first)
        ends = None if last is None else at_ms(len(pcm) - 1 - last)
        return self._written(low, high), pcm, begins, ends

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


@dataclass(frozen=True, slots=True)
class Script:
    """What a session sends: `pcm`, in which the questions end at the samples `ends`."""

    questions: Sequence[Question]
    pcm: Pcm
    ends: Sequence[int]


def script(questions: Sequence[Question], snr_db: float | None, seed: int) -> Script:
    """One question after the other; noise `snr_db` below the voice, or none."""
    gap_samples = round(_ANSWER_S * SAMPLE_RATE_HZ)
    pieces: list[Pcm] = [np.zeros(round(_LEAD_S * SAMPLE_RATE_HZ), np.float32)]
    ends: list[int] = []
    for question in questions:
        pieces.append(_at_level(question.pcm))
        ends.append(sum(map(len, pieces)))
        gap = np.zeros(gap_samples, np.float32)
        if question.aside is not None:
            at = round(question.aside_s * SAMPLE_RATE_HZ)
            gap[at : at + len(question.aside)] += _at_level(question.aside)[: gap_samples - at]
        pieces.append(gap)
    pcm = np.concatenate(pieces)
    if snr_db is not None:
        pcm = pcm + noise(np.random.default_rng(seed), len(pcm)) * _LOUDNESS * 10 ** (-snr_db / 20)
    return Script(questions, pcm.clip(-1, 1).astype(np.float32), ends)


def _outcomes(recorder: _ResponseRecorder, sent: Script) -> list[Outcome]:
    outcomes = []
    for question, end in zip(sent.questions, sent.ends, strict=True):
        text, sound, begins, ends_ms = recorder.between(
            end / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ + _ANSWER_S
        )
        silent = None
        if question.aside is not None and ends_ms is not None:
            silent = ends_ms - 1e3 * (question.aside_s + len(question.aside) / SAMPLE_RATE_HZ)
        asked = sent.pcm[end - len(question.pcm) : end]
        outcomes.append(Outcome(question, text, sound, begins, asked, silent))
    return outcomes


async def ask(
    url: str, questions: Sequence[Question], snr_db: float | None, seed: int
) -> tuple[list[Outcome], Report]:
    """Ask in one session of a server."""
    sent = script(questions, snr_db, seed)
    recorder = _ResponseRecorder()
    report = await converse(url, recorder.spoken(sent.pcm), handler=recorder)
    return _outcomes(recorder, sent), report


def ask_offline(stages: ModelStages, sampling: SamplingParams, sent: Script) -> list[Outcome]:
    """Ask the model without a server, as fast as it goes; times are those of its frames alone."""
    return _outcomes(_run(stages, sampling, sent.pcm), sent)


def listen_offline(stages: ModelStages, sampling: SamplingParams, sound: Pcm) -> list[str]:
    """As `listen`, without a server."""
    return _utterances(_run(stages, sampling, sound.clip(-1, 1).astype(np.float32)))


def _run(stages: ModelStages, sampling: SamplingParams, pcm: Pcm) -> _ResponseRecorder:
    encoder, stepper, decoder = stages.load_encoder(), stages.load_stepper(), stages.load_decoder()
    for stage in (encoder, stepper, decoder):
        stage.open(_LANE, sampling)
    recorder, framer = _ResponseRecorder(), Framer()
    frames = np.concatenate([framer.push(pcm), framer.flush()])
    for number, frame in enumerate(frames, start=1):
        at_ns = number * FRAME_MS * 1_000_000
        (step,) = stepper.step([_LANE], encoder.encode([_LANE], frame[None]))
        recorder.texts += [(at_ns, event.text, isinstance(event, TextFinal)) for event in step.text]
        if step.codes is not None:
            recorder.frames.append((at_ns, decoder.decode([_LANE], step.codes[None])[0]))
    return recorder


async def listen(url: str, sound: Pcm) -> list[str]:
    """A session without a question; returns what the agent wrote in it."""
    recorder = _ResponseRecorder()
    await converse(url, recorder.spoken(sound.clip(-1, 1).astype(np.float32)), handler=recorder)
    return _utterances(recorder)


def _utterances(recorder: _ResponseRecorder) -> list[str]:
    utterances = [text for _, text, final in recorder.texts if final]
    received = np.concatenate([np.zeros(0, np.float32), *(frame for _, frame in recorder.frames)])
    return utterances or (["(a sound)"] if spoken_from(received) is not None else [])


@dataclass
class Job:
    """A session to run, and its outcomes."""

    url: str
    questions: Sequence[Question]
    snr_db: float | None
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self) -> None:
        """Run the session."""
        self.outcomes, _ = await ask(self.url, self.questions, self.snr_db, self.seed)


async def several(limit: int, jobs: Sequence[Job]) -> None:
    """Run jobs, at most `limit` at a time."""
    limiter = trio.CapacityLimiter(limit)

    async def one(job: Job) -> None:
        async with limiter:
            await job.run()

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(one, job)
