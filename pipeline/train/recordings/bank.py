"""Utterances as files: text, speaker, and the start of every word and phoneme.

A shard is three files beside each other: `NAME.pcm.npy` int16 at 24 kHz, all utterances in
a row, `NAME.sounds.npy` uint8, one phoneme for each 20 ms of each utterance, and
`NAME.json`, the rest. The json is written last: where it is, the shard is whole.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import StartupError
from pipeline.train.conversation.phrases import Exchange
from pipeline.train.conversation.wording import ANSWERS
from pipeline.train.synthesizers.spoken import SILENCE, Sound, Spoken
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

AGENT_SHARD: Final = "agent"
NATURAL: Final = "natural-"  # shards of training questions in natural voices
EVALUATION: Final = "eval-"  # of questions for `evaluate`
SOUND_SAMPLES: Final = SAMPLE_RATE_HZ // 50
FULL_SCALE: Final = 32767  # of what is stored


class CorpusError(StartupError):
    """The corpus is missing or was never finished; the message names the command that makes it."""

    exit_code = 2


class Named(Protocol):
    """The speaker of an utterance, as a shard records it."""

    @property
    def name(self) -> str:
        """The synthesizer's voice."""

    @property
    def speed(self) -> int:
        """In the synthesizer's own unit."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording. `word_starts` in samples; `answer` is the agent's, "" for the agent's utterances."""

    text: str
    answer: str
    kind: str
    operands: tuple[int, int] | None
    voice: str
    speed: int
    word_starts: tuple[int, ...]
    start: int
    samples: int

    @property
    def sounds(self) -> int:
        """Phonemes of 20 ms that it has."""
        return -(-self.samples // SOUND_SAMPLES)


@dataclass(frozen=True)
class Shard:
    """Utterances, their samples (mapped, not read) and their phonemes by number."""

    name: str
    utterances: tuple[Utterance, ...]
    phonemes: tuple[str, ...]
    pcm: npt.NDArray[np.int16]
    sounds: npt.NDArray[np.uint8]
    sound_starts: npt.NDArray[np.int64]

    def recording(self, index: int) -> Pcm:
        """`[S]` float32 within ±1."""
        one = self.utterances[index]
        return (self.pcm[one.start : one.start + one.samples] / FULL_SCALE).astype(np.float32)


def _spread(sounds: Sequence[Sound], samples: int, numbers: dict[str, int]) -> npt.NDArray[np.uint8]:
    """The phoneme in the middle of each 20 ms."""
    count = -(-samples // SOUND_SAMPLES)
    starts = np.array([sound.start for sound in sounds] or [0])
    names = [sound.phoneme for sound in sounds] or [SILENCE]
    middles = np.arange(count) * SOUND_SAMPLES + SOUND_SAMPLES // 2
    which = np.maximum(np.searchsorted(starts, middles, side="right") - 1, 0)
    return np.array([numbers.setdefault(names[i], len(numbers)) for i in which], np.uint8)


def stored(pcm: Pcm) -> npt.NDArray[np.int16]:
    """`[S]` as a shard has it."""
    return np.round(pcm.clip(-1, 1) * FULL_SCALE).astype(np.int16)


def write_shard(folder: Path, name: str, spoken: Iterable[tuple[Exchange, Named, Spoken]]) -> None:
    """Write a shard, whole or not at all."""
    pieces: list[npt.NDArray[np.int16]] = []
    sounds: list[npt.NDArray[np.uint8]] = []
    numbers: dict[str, int] = {SILENCE: 0}
    utterances: list[Utterance] = []
    start = 0
    for exchange, voice, recording in spoken:
        samples = len(recording.pcm)
        pieces.append(stored(recording.pcm))
        sounds.append(_spread(recording.sounds, samples, numbers))
        utterances.append(
            Utterance(
                text=exchange.question,
                answer=exchange.answer,
                kind=exchange.kind,
                operands=exchange.operands,
                voice=voice.name,
                speed=voice.speed,
                word_starts=recording.word_starts,
                start=start,
                samples=samples,
            )
        )
        start += samples
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.pcm.npy", np.concatenate(pieces))
    np.save(folder / f"{name}.sounds.npy", np.concatenate(sounds))
    about = {"phonemes": list(numbers), "utterances": [asdict(utterance) for utterance in utterances]}
    partial = folder / f"{name}.json.partial"
    partial.write_text(json.dumps(about), encoding="utf-8")
    partial.replace(folder / f"{name}.json")


def _utterance(raw: dict[str, Any]) -> Utterance:
    """As it was recorded, with the answer that its kind of question has by now."""
    operands = raw["operands"]
    return Utterance(
        **{
            **raw,
            "answer": raw["answer"] and ANSWERS.get(raw["kind"], raw["answer"]),
            "word_starts": tuple(raw["word_starts"]),
            "operands": None if operands is None else (operands[0], operands[1]),
        }
    )


def read_shard(folder: Path, name: str) -> Shard:
    """Map a shard.

    Raises:
        CorpusError: there is none.
    """
    try:
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(folder, name) from None
    utterances = tuple(_utterance(raw) for raw in about["utterances"])
    lengths = np.array([utterance.sounds for utterance in utterances], np.int64)
    return Shard(
        name,
        utterances,
        tuple(about["phonemes"]),
        np.load(folder / f"{name}.pcm.npy", mmap_mode="r"),
        np.load(folder / f"{name}.sounds.npy"),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]),
    )


def read_shards(folder: Path, prefix: str) -> list[Shard]:
    """All whole shards whose name starts with `prefix`, in order.

    Raises:
        CorpusError: there are none.
    """
    names = sorted(path.stem for path in folder.glob(f"{prefix}*.json"))
    if not names:
        raise _missing(folder, prefix)
    return [read_shard(folder, name) for name in names]


def _missing(folder: Path, name: str) -> CorpusError:
    step = "record" if name.startswith((NATURAL, EVALUATION)) else "corpus"
    return CorpusError(f"{folder} has no {name}: python -m pipeline.train.{step} makes it")
