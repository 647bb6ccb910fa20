"""`python -m pipeline.train.record`: synthesize questions with neural voices, in the background.

    python -m pipeline.train.record --utterances 6000

Shards of a hundred questions, each from a seed of its own, beside those of `corpus`; shards that
are there are left as they are. A neural voice takes about as long as it speaks, on one thread:
leave this running (`nice -n 19`), stop it at any time, call it again; `encode` takes what is there.
Each recording is kept twice, once from another vocal tract. Beside the training questions there
is a shard for each condition of an evaluation, spoken by voices that are held out.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.train.conversation.phrases import Exchange, Manner, answers, draw
from pipeline.train.conversation.wording import Kind, Split
from pipeline.train.recordings.bank import AGENT_SHARD, NATURAL, write_shard
from pipeline.train.runs.command import run
from pipeline.train.synthesizers.agent_speech import AgentSpeech
from pipeline.train.synthesizers.packages import CACHE_VARIABLE, cache_folder
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.train.synthesizers.synthesis import Synthesizers, with_tract
from pipeline.train.synthesizers.voice_split import draw_speaker, evaluation_speakers

SHARD_UTTERANCES: Final = 100
EVALUATION_UTTERANCES: Final = 60  # questions a condition
_MARKS: Final = ("?", "?", ".", "")
_OTHER_TRACTS: Final = ((0.86, 0.95), (1.06, 1.2))


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What the held-out voices are given to speak under one condition."""

    kinds: tuple[Kind, ...]
    phrasing: Split = "train"
    pairs: Split = "train"
    manner: Manner = "fluent"


_SMALL_TALK: Final[tuple[Kind, ...]] = (
    "greeting", "wellbeing", "name", "age", "ability", "audible", "introduction", "thanks", "goodbye",
)  # fmt: skip
_ARITHMETIC: Final[tuple[Kind, ...]] = ("sum", "difference")
EVALUATION_SETS: Final[dict[str, EvaluationSet]] = {
    "eval-sums": EvaluationSet(_ARITHMETIC),
    "eval-talk": EvaluationSet(_SMALL_TALK),
    "eval-pairs": EvaluationSet(_ARITHMETIC, pairs="held_out"),
    "eval-phrasings": EvaluationSet((*_ARITHMETIC, *_SMALL_TALK), phrasing="held_out"),
    "eval-fillers": EvaluationSet(_ARITHMETIC, manner="filler"),
    "eval-corrections": EvaluationSet(_ARITHMETIC, manner="correction"),
    "eval-refusals": EvaluationSet(("unknown",), phrasing="held_out"),
    "eval-manners": EvaluationSet(("stop", "backchannel", "repeat"), phrasing="held_out"),
}


def shortened(spoken: Spoken, tract: float) -> Spoken:
    """The same recording from a vocal tract shorter by `tract`, and as much faster."""
    return Spoken(
        with_tract(spoken.pcm, tract),
        tuple(round(start / tract) for start in spoken.word_starts),
        tuple(Sound(sound.phoneme, round(sound.start / tract)) for sound in spoken.sounds),
    )


def training(
    synthesizers: Synthesizers, seed: tuple[int, ...], count: int
) -> Iterator[tuple[Exchange, Speaker, Spoken]]:
    """`count` questions, each recording followed by the same from another vocal tract."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        exchange, speaker = draw(rng), draw_speaker(rng)
        spoken = synthesizers.synthesize(exchange.prompt, speaker, str(rng.choice(_MARKS)))
        yield exchange, speaker, spoken
        tract = float(rng.uniform(*_OTHER_TRACTS[int(rng.integers(len(_OTHER_TRACTS)))]))
        yield exchange, replace(speaker, tract=speaker.tract * tract), shortened(spoken, tract)


def evaluation_questions(
    synthesizers: Synthesizers, seed: tuple[int, ...], asked: EvaluationSet
) -> Iterator[tuple[Exchange, Speaker, Spoken]]:
    """One condition's questions; speakers and kinds take turns."""
    rng = np.random.default_rng(seed)
    speakers = evaluation_speakers()
    for index in range(EVALUATION_UTTERANCES):
        speaker = replace(speakers[index % len(speakers)], pace=float(rng.uniform(0.85, 1.15)))
        exchange = draw(
            rng,
            phrasing=asked.phrasing,
            pairs=asked.pairs,
            kind=asked.kinds[index // 2 % len(asked.kinds)],
            manner=asked.manner,
        )
        yield exchange, speaker, synthesizers.synthesize(exchange.prompt, speaker, "?")


def agent_answers(synthesizers: Synthesizers, voice: str) -> Iterator[tuple[Exchange, Speaker, Spoken]]:
    """Every sentence of the agent in a neural voice, its words on the grid of frames."""
    speaker = Speaker("kokoro", ((voice, 1.0),))
    speech = AgentSpeech(synthesizers, speaker)
    for answer in answers("held_out"):
        yield Exchange("unknown", answer, ""), speaker, speech.speak(answer)


def record(arguments: argparse.Namespace) -> None:
    """Write every shard that is not there."""
    cache = cache_folder(arguments.cache)
    out: Path = arguments.out or cache / "corpus"
    shards = -(-arguments.utterances // SHARD_UTTERANCES)
    names = [f"{NATURAL}{index:04d}" for index in range(shards)] if arguments.part != "evaluation" else []
    names += EVALUATION_SETS if arguments.part != "training" else []
    missing = [name for name in names if not (out / f"{name}.json").is_file()]
    synthesizers = Synthesizers(cache)
    began_s = time.monotonic()
    if arguments.agent_voice and not (out / f"{AGENT_SHARD}.json").is_file():
        write_shard(out, AGENT_SHARD, agent_answers(synthesizers, arguments.agent_voice))
        print(f"{AGENT_SHARD}: after {time.monotonic() - began_s:.0f} s", flush=True)
    for done, name in enumerate(missing, start=1):
        if name in EVALUATION_SETS:
            seed = (arguments.seed, 6, list(EVALUATION_SETS).index(name))
            write_shard(out, name, evaluation_questions(synthesizers, seed, EVALUATION_SETS[name]))
        else:
            index = int(name.removeprefix(NATURAL))
            write_shard(out, name, training(synthesizers, (arguments.seed, 5, index), SHARD_UTTERANCES))
        elapsed_s = time.monotonic() - began_s
        print(f"{name}: {done} of {len(missing)} after {elapsed_s:.0f} s", flush=True)
        if arguments.minutes and elapsed_s > 60 * arguments.minutes:
            break


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.record", description="Record natural voices."
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="the corpus (default: CACHE/corpus)")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help=f"where models and recordings are kept (default: {CACHE_VARIABLE}, or the user's cache)",
    )
    parser.add_argument("--utterances", type=int, default=6000, help="training questions (default 6000)")
    parser.add_argument("--part", choices=("all", "training", "evaluation"), default="all")
    parser.add_argument(
        "--agent-voice",
        metavar="VOICE",
        help="synthesize the agent with this voice of Kokoro, if its answers are not there yet (af_heart)",
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="stop, resumable, after so long")
    parser.add_argument("--seed", type=int, default=1)
    return run(partial(record, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
