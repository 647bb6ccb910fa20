"""`python -m pipeline.train.evaluate`: ask a server what was never asked in training, and count.

    python -m pipeline.train.evaluate --corpus build/train/corpus --config configs/tiny

Starts a server on the checkpoint and speaks to it as any client does. A table of conditions:
right by text, right by sound (the nearest of all answers' recordings is the right one),
how soon; then what it says to silence and noise, and how well the codec keeps a voice.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import trio

from pipeline.audio.framing import Framer
from pipeline.config import parse_source, read_config
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.stages.model_stages import open_stages
from pipeline.system.command import run_command
from pipeline.train.bank import Shard, read_shard
from pipeline.train.corpus import AGENT_SHARD
from pipeline.train.measures import Sentences, log_mel_distance_db, stoi
from pipeline.train.trial import Job, Outcome, Question, say_nothing, several
from pipeline.values import GREEDY

TURNS: Final = 4  # questions a session
_QUIET_LEVELS_DB: Final = (None, -60.0, -40.0, -30.0)
_FAILURES_SHOWN: Final = 5
_SAID_SHOWN: Final = 80  # letters
_CODEC_RECORDINGS: Final = 24


@dataclass(frozen=True, slots=True)
class Asked:
    """One row of the table: a held-out shard, only sums and differences of it or all, and noise."""

    name: str
    shard: str
    snr_db: float | None = None
    sums_only: bool = False


CONDITIONS: Final = (
    Asked("nothing held out", "held-out-seen"),
    Asked("voices", "held-out-voices"),
    Asked("speeds", "held-out-speeds"),
    Asked("phrasings", "held-out-phrasings"),
    Asked("operand pairs", "held-out-pairs", sums_only=True),
    Asked("all of these", "held-out-all"),
    Asked("voices, noise 20 dB below", "held-out-voices", snr_db=20),
    Asked("voices, noise 10 dB below", "held-out-voices", snr_db=10),
)


def questions_of(shard: Shard, count: int, *, sums_only: bool) -> list[Question]:
    """The first `count` questions of a shard that qualify."""
    chosen = [
        index for index, one in enumerate(shard.utterances) if one.operands is not None or not sums_only
    ]
    return [Question(shard.recording(index), shard.utterances[index].answer) for index in chosen[:count]]


def row(outcomes: Sequence[Outcome], sentences: Sentences) -> dict[str, Any]:
    """What one condition came to."""
    by_text = [outcome.text == outcome.wanted for outcome in outcomes]
    by_sound = [sentences.nearest(outcome.sound) == outcome.wanted for outcome in outcomes]
    latencies = [outcome.latency_ms for outcome in outcomes if outcome.latency_ms is not None]
    failures = Counter(
        (outcome.wanted, outcome.text[:_SAID_SHOWN] or "(nothing)")
        for outcome, right in zip(outcomes, by_text, strict=True)
        if not right
    )
    return {
        "asked": len(outcomes),
        "by_text": round(float(np.mean(by_text)), 3),
        "by_sound": round(float(np.mean(by_sound)), 3),
        "latency_ms": round(float(np.median(latencies))) if latencies else None,
        "failures": [
            f"{wanted!r}: {said[:_SAID_SHOWN]!r}"
            for (wanted, said), _ in failures.most_common(_FAILURES_SHOWN)
        ],
    }


async def _ask_all(url: str, corpus: Path, count: int, at_once: int) -> dict[str, list[Outcome]]:
    answers: dict[str, list[Outcome]] = {}
    for number, asked in enumerate(CONDITIONS):
        questions = questions_of(read_shard(corpus, asked.shard), count, sums_only=asked.sums_only)
        jobs = [
            Job(url, questions[start : start + TURNS], asked.snr_db, seed=1000 * number + start)
            for start in range(0, len(questions), TURNS)
        ]
        await several(at_once, jobs)
        answers[asked.name] = [outcome for job in jobs for outcome in job.outcomes]
        print(f"{asked.name}: {len(answers[asked.name])} asked", file=sys.stderr, flush=True)
    return answers


def _level(level_db: float | None) -> str:
    return "silence" if level_db is None else f"noise at {level_db:g} dB"


async def _false_starts(url: str, seconds: float) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {_level(level_db): [] for level_db in _QUIET_LEVELS_DB}

    async def listen(level_db: float | None) -> None:
        said[_level(level_db)] = await say_nothing(url, seconds / len(_QUIET_LEVELS_DB), level_db, seed=7)

    async with trio.open_nursery() as nursery:
        for level_db in _QUIET_LEVELS_DB:
            nursery.start_soon(listen, level_db)
    return said


def codec_quality(config: Path, corpus: Path) -> dict[str, dict[str, float]]:
    """Voices through the codec and back, by all codebooks that are heard, and by those that are spoken."""
    chain = open_stages(read_config(config, ["lanes.max=1"]))
    quality = {}
    for name, shard in (("users", "held-out-voices"), ("agent", AGENT_SHARD)):
        recordings = read_shard(corpus, shard)
        step = max(1, len(recordings.utterances) // _CODEC_RECORDINGS)
        distances, intelligible = [], []
        encoder, decoder = chain.load_encoder(), chain.load_decoder()
        for index in range(0, len(recordings.utterances), step):
            pcm = recordings.recording(index)
            for stage in (encoder, decoder):
                stage.open(0, GREEDY)
            framer = Framer()
            frames = np.concatenate([framer.push(pcm), framer.flush()])
            codes = [encoder.encode([0], frame[None]) for frame in frames]
            spoken = [decoder.decode([0], each[:, : chain.bundle.lm.dep_q])[0] for each in codes]
            made = np.concatenate(spoken)
            distances.append(log_mel_distance_db(made, pcm))
            intelligible.append(stoi(made, pcm))
        quality[name] = {
            "log_mel_distance_db": round(float(np.mean(distances)), 2),
            "stoi": round(float(np.mean(intelligible)), 3),
        }
    return quality


def table(report: dict[str, Any]) -> str:
    """The report, for people."""
    lines = [f"{'held out':28} {'asked':>5} {'text':>7} {'sound':>7} {'latency':>9}"]
    for name, found in report["conditions"].items():
        latency = "-" if found["latency_ms"] is None else f"{found['latency_ms']} ms"
        lines.append(
            f"{name:28} {found['asked']:5} {found['by_text']:7.1%} {found['by_sound']:7.1%} {latency:>9}"
        )
    for name, said in report["false_starts"].items():
        lines.append(
            f"{name}: {len(said)} false starts {[each[:_SAID_SHOWN] for each in said[:_FAILURES_SHOWN]]}"
        )
    for name, found in report["codec"].items():
        lines.append(f"codec, {name}: {found['log_mel_distance_db']} dB log-mel, STOI {found['stoi']}")
    lines.append(f"p99 of encode, step, decode: {report['p99_ms']} ms")
    for name, found in report["conditions"].items():
        lines += [f"  {name}, wrong: {failure}" for failure in found["failures"]]
    return "\n".join(lines)


def _p99(server: ServerProcess) -> dict[str, float]:
    _, health = server.get("/health")
    return {stage: health["metrics"][stage]["p99"] for stage in ("encode", "step", "decode")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train.evaluate", description="Ask, and count.")
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.add_argument("--config", metavar="DIR", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--count", type=int, default=60, help="questions a condition (default 60)")
    parser.add_argument("--at-once", type=int, default=4, help="sessions at a time (default 4)")
    parser.add_argument(
        "--quiet-s", type=float, default=300.0, help="of silence and noise in all (default 300)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")
    arguments = parser.parse_args(argv)
    agent = read_shard(arguments.corpus, AGENT_SHARD)
    sentences = Sentences({one.text: agent.recording(index) for index, one in enumerate(agent.utterances)})
    settings = ["sampling.seed=1", f"lanes.admit={arguments.at_once}"]  # as many as asked, however late
    with start_server(parse_source(str(arguments.config)), settings) as server:
        answers = trio.run(_ask_all, server.socket_url, arguments.corpus, arguments.count, arguments.at_once)
        false_starts = trio.run(_false_starts, server.socket_url, arguments.quiet_s)
        p99_ms = _p99(server)
    report = {
        "conditions": {name: row(outcomes, sentences) for name, outcomes in answers.items()},
        "false_starts": false_starts,
        "codec": codec_quality(arguments.config, arguments.corpus),
        "p99_ms": p99_ms,
    }
    print(table(report))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
