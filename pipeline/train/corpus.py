"""`python -m pipeline.train.corpus`: synthesize thousands of questions and every answer.

    python -m pipeline.train.corpus --out build/train/corpus --utterances 60000

Written shard by shard, each from a seed of its own; shards that are there are left as they
are, so a second call finishes what a first one began. Beside the training questions there is
a shard for each way of being held out, which only `evaluate` reads, and the agent's answers.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.system import resources
from pipeline.train.conversation.phrases import Exchange, answers, draw
from pipeline.train.conversation.vocabulary import train_tokenizer
from pipeline.train.conversation.wording import Split
from pipeline.train.recordings.bank import AGENT_SHARD, write_shard
from pipeline.train.runs.command import run
from pipeline.train.synthesizers.aligned import aligned
from pipeline.train.synthesizers.espeak import Synthesizer
from pipeline.train.synthesizers.spoken import Spoken
from pipeline.train.synthesizers.voices import AGENT, Voice, draw_user

SHARD_UTTERANCES: Final = 2000
HELD_OUT_UTTERANCES: Final = 400


@dataclass(frozen=True, slots=True)
class Condition:
    """Which aspects of a shard's utterances were kept from training."""

    voice: Split = "train"
    speed: Split = "train"
    phrasing: Split = "train"
    pairs: Split = "train"


CONDITIONS: Final[dict[str, Condition]] = {
    "seen": Condition(),
    "voices": Condition(voice="held_out"),
    "speeds": Condition(speed="held_out"),
    "phrasings": Condition(phrasing="held_out"),
    "pairs": Condition(pairs="held_out"),
    "all": Condition("held_out", "held_out", "held_out", "held_out"),
}


def questions(
    synthesizer: Synthesizer, seed: tuple[int, ...], count: int, condition: Condition
) -> Iterator[tuple[Exchange, Voice, Spoken]]:
    """`count` spoken questions; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        exchange = draw(rng, phrasing=condition.phrasing, pairs=condition.pairs)
        voice = draw_user(rng, voice=condition.voice, speed=condition.speed)
        yield exchange, voice, synthesizer.synthesize(exchange.question, voice)


def agent_answers(synthesizer: Synthesizer) -> Iterator[tuple[Exchange, Voice, Spoken]]:
    """Every sentence of the agent, held-out pairs' too, with which no training question is answered."""
    for answer in answers("held_out"):
        yield Exchange("unknown", answer, ""), AGENT, aligned(synthesizer.synthesize(answer, AGENT))


def _make(folder: Path, seed: int, name: str) -> str:
    synthesizer = Synthesizer()
    if name == AGENT_SHARD:
        write_shard(folder, name, agent_answers(synthesizer))
    elif name.startswith("train-"):
        index = int(name.removeprefix("train-"))
        write_shard(folder, name, questions(synthesizer, (seed, 1, index), SHARD_UTTERANCES, Condition()))
    else:
        condition = name.removeprefix("held-out-")
        index = list(CONDITIONS).index(condition)
        spoken = questions(synthesizer, (seed, 2, index), HELD_OUT_UTTERANCES, CONDITIONS[condition])
        write_shard(folder, name, spoken)
    return name


def shard_names(utterances: int) -> list[str]:
    """What a corpus of so many training questions consists of."""
    shards = -(-utterances // SHARD_UTTERANCES)
    return [
        AGENT_SHARD,
        *(f"held-out-{condition}" for condition in CONDITIONS),
        *(f"train-{index:04d}" for index in range(shards)),
    ]


def synthesize(arguments: argparse.Namespace) -> None:
    """Write every shard that is not there."""
    names = shard_names(arguments.utterances)
    missing = [name for name in names if not (arguments.out / f"{name}.json").is_file()]
    began_s = time.monotonic()
    train_tokenizer(arguments.out)
    # A fresh process each: the synthesizer's library cannot be started twice in one.
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(min(arguments.workers, max(1, len(missing))), maxtasksperchild=1) as pool:
        make = partial(_make, arguments.out, arguments.seed)
        for done, name in enumerate(pool.imap_unordered(make, missing), start=1):
            print(f"{name}: {done} of {len(missing)} after {time.monotonic() - began_s:.0f} s", flush=True)
    print(f"{arguments.out}: {len(names)} shards, {arguments.utterances} training questions")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.corpus", description="Synthesize the training corpus."
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=60_000, help="training questions (default 60000)")
    parser.add_argument("--workers", type=int, default=resources.usable_cores())
    parser.add_argument("--seed", type=int, default=1)
    return run(partial(synthesize, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
