"""`python -m pipeline.train.encode`: compose conversations and encode them.

    python -m pipeline.train.encode --corpus build/train/corpus --out build/train/run --sessions 8192

A file at a time, each from a seed of its own: rooms, noise, voices and timings differ in every
session. Files that are there are left as they are. They belong to one encoder of the user and one of
the agent: their folder is named after both, and a codec trained further has another, unless only its
decoder was.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.train.acoustics.channels import some_through_opus
from pipeline.train.acoustics.rooms import across_a_room, chance, from_db, in_a_room, noisy, uniform
from pipeline.train.conversation.phrases import understood_words
from pipeline.train.conversation.sessions import (
    Questions,
    Session,
    by_frame,
    compose,
    results_by_frame,
    slip,
)
from pipeline.train.conversation.speakers import (
    Agent,
    Codes,
    Speech,
    agent_codes,
    agent_of,
    others_talk,
    tracks,
)
from pipeline.train.conversation.vocabulary import PADDING, word_numbers
from pipeline.train.networks.architecture import add_recipe_argument, mimi_sizes, moshi_sizes
from pipeline.train.networks.mimi import MimiNetwork
from pipeline.train.recordings.bank import NATURAL, Shard, read_shards
from pipeline.train.recordings.perturbation import perturbed
from pipeline.train.recordings.served import ServedEncoder
from pipeline.train.runs import device as machine
from pipeline.train.runs.checkpoints import codec_of, codes_folder, fingerprint
from pipeline.train.runs.command import run
from pipeline.units import FRAME_SAMPLES

SESSION_FRAMES: Final = 300
FILE_SESSIONS: Final = 64
_VALIDATION_SESSIONS: Final = 32
_UTTERANCES: Final = 600  # of which the sessions of a file are composed
_CPU_GROUP: Final = 8  # sessions encoded at once
_CUDA_GROUP: Final = 64
VALIDATION: Final = "validation"
VALIDATED: Final = ("eval-sums", "eval-talk", "eval-pairs")
_ECHO_SHARE: Final = 0.25
_OVERHEARD: Final = 0.6  # of the stretches without a conversation, those with other people's talk


Encoder = Callable[[Tensor], Codes]  # `[B, N · 1920]` → `[B, K, N]`


def _encoder(model: MimiNetwork, served: Path | None, agent: Agent) -> Encoder:
    """The trainer's, or that of an exported checkpoint, if it is the same."""

    def trained(sound: Tensor) -> Codes:
        # In float32, as it will be: fewer bits give other codes.
        return model.encode(sound[:, None]).cpu().numpy().astype(np.int16)

    if served is None:
        return trained
    encoder = ServedEncoder(served, _together(next(model.parameters()).device))
    sample = next(iter(agent.pcm.values()))[None]
    encoder.check(sample.cpu().numpy(), trained(sample))
    return lambda sound: encoder.encode(sound.cpu().numpy())


def _together(device: torch.device) -> int:
    return _CUDA_GROUP if device.type == "cuda" else _CPU_GROUP


class Encoding:
    """Sessions of some speech, as files of codes; deterministic on one machine."""

    def __init__(self, corpus: Path, speech: Speech, agent: Agent, encoder: Encoder) -> None:
        self.speech, self.agent, self.encoder = speech, agent, encoder
        self.questions = Questions(speech.utterances)
        self.tokens = word_numbers(corpus)
        self.words = {word: number for number, word in enumerate(understood_words(), start=1)}
        self.device = speech.recordings.device
        self.group = _together(self.device)

    def write(self, path: Path, seed: tuple[int, ...], sessions: int) -> None:
        """One file of so many sessions, or of some more; whole or not at all."""
        rng = np.random.default_rng(seed)
        torch.manual_seed(int(rng.integers(2**31)))
        groups = [self._group(rng) for _ in range(-(-sessions // self.group))]
        arrays: dict[str, Any] = {name: np.concatenate([each[name] for each in groups]) for name in groups[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)

    def _group(self, rng: np.random.Generator) -> dict[str, Any]:
        sessions = [
            compose(rng, self.questions, self.agent.utterances, SESSION_FRAMES) for _ in range(self.group)
        ]
        others = self._others(sessions, rng)
        users, played = tracks(sessions, self.speech, self.agent, rng)
        answers = [agent_codes(session, self.agent) for session in sessions]
        return {
            "user": self._user_codes(users, played, others, rng),
            "agent": np.stack([codes for codes, _ in answers]),
            "speaking": np.stack([speaking for _, speaking in answers]),
            "text": np.stack([self._text(session) for session in sessions]),
            "slips": np.stack([_slips(session) for session in sessions]),
            "heard": np.stack([self._words(session) for session in sessions]),
            "results": np.stack([results_by_frame(session).astype(np.int16) for session in sessions]),
        }

    def _others(self, sessions: list[Session], rng: np.random.Generator) -> Tensor:
        """`[B, N · 1920]`: other people's talk, mostly, where there is no conversation.

        Now and then the agent answers it, which is noted in its session.
        """
        samples = sessions[0].frames * FRAME_SAMPLES
        rows = torch.zeros(len(sessions), samples, device=self.device)
        for row, session in zip(rows, sessions, strict=True):
            for begin, end in session.overheard:
                if rng.random() < _OVERHEARD:
                    row[begin:end], spoken = others_talk(self.speech, end - begin, rng)
                    sentences = [(begin + ended, one) for ended, one in spoken]
                    slip(rng, session, sentences, self.agent.utterances, end)
        return across_a_room(rows)

    def _user_codes(
        self, users: Tensor, played: Tensor, overheard: Tensor, rng: np.random.Generator
    ) -> Codes:
        """`[B, N · 1920]` each → codes `[B, K, N]` with room acoustics, noise, some echo, and Opus."""
        count = len(users)
        others = torch.roll(users, 1, 0) + torch.roll(users, 3, 0)
        loud = from_db(uniform((count, 1), -36, -18, self.device)) * chance(count, _ECHO_SHARE, self.device)
        sound = (noisy(in_a_room(users) + overheard, others) + loud * played).clamp(-1, 1)
        sound = some_through_opus(sound, rng)
        return self.encoder(sound)

    def _text(self, session: Session) -> Codes:
        tokens = by_frame(session.words, self.tokens, session.frames, other=0)
        return np.where(tokens == 0, PADDING, tokens).astype(np.int16)

    def _words(self, session: Session) -> Codes:
        unknown = len(self.words) + 1
        return by_frame(session.user_words, self.words, session.frames, other=unknown).astype(np.int16)


def _slips(session: Session) -> npt.NDArray[np.bool_]:
    row = np.zeros(session.frames, np.bool_)
    row[session.slips] = True
    return row


def _training(corpus: Path) -> list[Shard]:
    """All training speech of users: natural voices, if they are recorded, and the formant synthesizer's."""
    formant = read_shards(corpus, "train-")
    return [*read_shards(corpus, NATURAL), *formant] if any(corpus.glob(f"{NATURAL}*.json")) else formant


def _held_out(corpus: Path) -> list[Shard]:
    """Held-out natural voices, if they are recorded, else held-out variants."""
    recorded = any(corpus.glob(f"{VALIDATED[0]}.json"))
    return [
        shard
        for name in (VALIDATED if recorded else ("held-out-all",))
        for shard in read_shards(corpus, name)
    ]


def encode(arguments: argparse.Namespace) -> None:
    """Write every file that is not there."""
    began_s = time.monotonic()
    device = machine.choose()
    model = codec_of(arguments.out, mimi_sizes(arguments.recipe), device)
    speaking = codec_of(arguments.out, mimi_sizes(arguments.recipe), device, agent=True)
    folder = codes_folder(arguments.out, model, speaking)
    spoken = moshi_sizes(arguments.recipe).dep_q
    kept = arguments.out / f"agent-{fingerprint(speaking)}.npz"
    agent = agent_of(read_shards(arguments.corpus, "agent")[0], speaking, spoken, device, kept)
    encoder = _encoder(model, arguments.served, agent)
    elapsed_s = time.monotonic() - began_s
    print(f"{folder}: {len(agent.codes)} answers encoded after {elapsed_s:.0f} s", flush=True)
    if not (folder / f"{VALIDATION}.npz").is_file():
        held_out = Speech.of(_held_out(arguments.corpus), device)
        encoding = Encoding(arguments.corpus, held_out, agent, encoder)
        encoding.write(folder / f"{VALIDATION}.npz", (arguments.seed, 4), _VALIDATION_SESSIONS)
    files = -(-arguments.sessions // FILE_SESSIONS)
    for index in range(files):
        path = folder / f"train-{index:04d}.npz"
        if path.is_file():
            continue
        rng = np.random.default_rng((arguments.seed, 7, index))
        shards = perturbed(_training(arguments.corpus), rng, _UTTERANCES)  # `record` may have added to them
        speech = Speech.of(shards, device)
        encoding = Encoding(arguments.corpus, speech, agent, encoder)
        encoding.write(path, (arguments.seed, 3, index), FILE_SESSIONS)
        elapsed_s = time.monotonic() - began_s
        print(f"{path.name}: {index + 1} of {files} after {elapsed_s:.0f} s", flush=True)
        if arguments.minutes and elapsed_s > 60 * arguments.minutes:
            break


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.encode", description="Turn sessions into codes."
    )
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    add_recipe_argument(parser)
    parser.add_argument(
        "--served",
        metavar="DIR",
        type=Path,
        help="an export of the run: encode the users as the server does, several times as fast on a CPU",
    )
    parser.add_argument("--sessions", type=int, default=8192, help="of 24 s each (default 8192)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop, resumable, after so long")
    parser.add_argument("--seed", type=int, default=1)
    return run(partial(encode, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
