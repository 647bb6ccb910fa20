"""`python -m pipeline.train.evaluate`: evaluate a checkpoint through a running server.

    python -m pipeline.train.evaluate --config configs/tiny

Starts a server on the checkpoint and connects as a client, with held-out voices, phrasings and pairs of
operands. Prints a table of conditions: accuracy of an independent recognizer on the questions (the
control), accuracy of the agent's text, accuracy of the recognizer's transcript of the agent's speech, its
word error rate against that text, and latency. Then the same by voice; false starts on noise, music and
other people's talk.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import trio

from pipeline.config import parse_source, read_config
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.stages.model_stages import open_stages
from pipeline.system.command import run_command
from pipeline.system.outputs import write_whole
from pipeline.train.evaluation.conditions import CONDITIONS, Condition, is_answer, questions, voices
from pipeline.train.evaluation.interference import music, noise, talk
from pipeline.train.evaluation.judge import Judge, normalized, word_errors
from pipeline.train.evaluation.trial import Job, Outcome, ask_offline, listen, listen_offline, script, several
from pipeline.train.synthesizers.packages import CACHE_VARIABLE, cache_folder
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

QUESTIONS_PER_SESSION: Final = 4
_INTERFERENCE_DB: Final = -24.0  # of full scale
_STOPS_WITHIN_MS: Final = 1000
_FAILURES_SHOWN: Final = 5
_MAX_SHOWN_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Row:
    """What the outcomes of one condition, or of one voice's family, came to.

    Shares of all that was asked; `word_error_rate` of all words that the agent wrote; None where
    there was no recognizer, or no text.
    """

    asked: int
    control: float | None
    by_text: float
    by_judge: float | None
    word_error_rate: float | None
    latency_ms: int | None
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The recognizer's transcripts of a question and of its answer."""

    question: str
    answer: str


def stopped(outcome: Outcome) -> bool:
    """Whether the agent had begun, and was silent within a second of "stop"."""
    began = outcome.latency_ms is not None
    return began and outcome.silent_ms is not None and outcome.silent_ms <= _STOPS_WITHIN_MS


def row(
    outcomes: Sequence[Outcome],
    transcribed: Sequence[Transcripts] | None,
    right: Callable[[Outcome], bool] = lambda outcome: is_answer(outcome.text, outcome.question.answer),
) -> Row:
    """Aggregate outcomes; `right` is whether the text of one is correct."""
    by_text = [right(outcome) for outcome in outcomes]
    latencies = [outcome.latency_ms for outcome in outcomes if outcome.latency_ms is not None]
    failures = Counter(
        (outcome.question.answer, outcome.text or "(nothing)")
        for outcome, good in zip(outcomes, by_text, strict=True)
        if not good
    )
    control = by_judge = rate = None
    if transcribed is not None:
        pairs = list(zip(outcomes, transcribed, strict=True))
        control = float(np.mean([each.question == normalized(one.question.text) for one, each in pairs]))
        by_judge = float(np.mean([each.answer == normalized(one.question.answer) for one, each in pairs]))
        counted = [word_errors(normalized(one.text), each.answer) for one, each in pairs if one.text]
        words = sum(length for _, length in counted)
        rate = sum(wrong for wrong, _ in counted) / words if words else None
    return Row(
        asked=len(outcomes),
        control=control,
        by_text=float(np.mean(by_text)),
        by_judge=by_judge,
        word_error_rate=rate,
        latency_ms=round(float(np.median(latencies))) if latencies else None,
        failures=[
            f"“{expected}”: “{text[:_MAX_SHOWN_CHARS]}”"
            for (expected, text), _ in failures.most_common(_FAILURES_SHOWN)
        ],
    )


async def _ask_all(
    url: str, corpus: Path, conditions: Sequence[Condition], arguments: argparse.Namespace
) -> dict[str, list[Outcome]]:
    answers: dict[str, list[Outcome]] = {}
    for number, condition in enumerate(conditions):
        asked = questions(corpus, condition, arguments.count)
        jobs = [
            Job(
                url,
                asked[start : start + QUESTIONS_PER_SESSION],
                condition.snr_db,
                seed=1000 * number + start,
            )
            for start in range(0, len(asked), QUESTIONS_PER_SESSION)
        ]
        await several(arguments.at_once, jobs)
        answers[condition.name] = [
            outcome for job in jobs for outcome in job.outcomes if outcome.question.counted
        ]
        print(f"{condition.name}: {len(answers[condition.name])} asked", file=sys.stderr, flush=True)
    return answers


def interferences(corpus: Path, seconds: float) -> dict[str, Pcm]:
    """Background sounds without a question, each `seconds` long."""
    samples, loudness = round(seconds * SAMPLE_RATE_HZ), np.float32(10 ** (_INTERFERENCE_DB / 20))
    rng = np.random.default_rng(7)
    return {
        "silence": np.zeros(samples, np.float32),
        "noise": noise(rng, samples) * loudness,
        "music": music(rng, samples) * loudness,
        "other people's talk": talk(rng, samples, voices(corpus)) * loudness,
    }


async def _false_starts(url: str, sounds: dict[str, Pcm]) -> dict[str, list[str]]:
    utterances: dict[str, list[str]] = {}

    async def one(name: str, sound: Pcm) -> None:
        utterances[name] = await listen(url, sound)

    async with trio.open_nursery() as nursery:
        for name, sound in sounds.items():
            nursery.start_soon(one, name, sound)
    return {name: utterances[name] for name in sounds}


def transcripts(judge: Judge | None, outcomes: Sequence[Outcome]) -> list[Transcripts] | None:
    """Transcribe every question and answer."""
    if judge is None:
        return None
    return [
        Transcripts(judge.transcribe(outcome.asked), judge.transcribe(outcome.sound)) for outcome in outcomes
    ]


def by_family(
    answers: dict[str, list[Outcome]], transcribed: dict[str, list[Transcripts] | None]
) -> dict[str, Row]:
    """The rows of each synthesizer, over all conditions in which a whole answer is expected."""
    gathered: dict[str, tuple[list[Outcome], list[Transcripts]]] = {}
    for condition in CONDITIONS:
        if condition.aside == "stop" or condition.name not in answers:
            continue
        transcripts_of_all = transcribed[condition.name]
        for index, outcome in enumerate(answers[condition.name]):
            outcomes, each = gathered.setdefault(outcome.question.family, ([], []))
            outcomes.append(outcome)
            each += transcripts_of_all[index : index + 1] if transcripts_of_all else []
    return {name: row(outcomes, each or None) for name, (outcomes, each) in gathered.items()}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _lines(title: str, rows: dict[str, Row]) -> list[str]:
    lines = [f"| {title} | asked | judge: question | right by text | by judge | word errors | first sound |"]
    lines.append("|---" * 7 + "|")
    for name, found in rows.items():
        shares = (found.control, found.by_text, found.by_judge, found.word_error_rate)
        latency = "-" if found.latency_ms is None else f"{found.latency_ms} ms"
        lines.append(f"| {name} | {found.asked} | {' | '.join(map(_share, shares))} | {latency} |")
    return lines


def table(report: dict[str, Any]) -> str:
    """The report, for people and for Markdown."""
    rows: dict[str, Row] = report["conditions"]
    lines = [*_lines("condition", rows), "", *_lines("voices of", report["families"]), ""]
    for name, utterances in report["false_starts"].items():
        shown = [each[:_MAX_SHOWN_CHARS] for each in utterances[:_FAILURES_SHOWN]]
        per_ten = len(utterances) * 600 / report["interference_s"]
        lines.append(f"{name}: {len(utterances)} false starts, {per_ten:.1f} in 10 minutes {shown}")
    if report["p99_ms"] is None:
        lines.append("without a server: the time of the first sound is that of the model's frames alone")
    else:
        lines.append(f"p99 of encode, step, decode: {report['p99_ms']} ms")
    lines += [f"  {name}, wrong: {failure}" for name, found in rows.items() for failure in found.failures]
    return "\n".join(lines)


def _p99(server: ServerProcess) -> dict[str, float]:
    _, health = server.get("/health")
    return {stage: health["metrics"][stage]["p99"] for stage in ("encode", "step", "decode")}


@dataclass(frozen=True, slots=True)
class Findings:
    """Outcomes of all conditions, false starts on background sound, and the latency of the stages."""

    answers: dict[str, list[Outcome]]
    false_starts: dict[str, list[str]]
    p99_ms: dict[str, float] | None


def _through_server(
    corpus: Path, conditions: Sequence[Condition], sounds: dict[str, Pcm], arguments: argparse.Namespace
) -> Findings:
    together = max(arguments.at_once, len(sounds))
    settings = ["sampling.seed=1", f"lanes.admit={together}"]  # as many as asked, however late
    with start_server(parse_source(str(arguments.config)), settings) as server:
        answers = trio.run(_ask_all, server.socket_url, corpus, conditions, arguments)
        false_starts = trio.run(_false_starts, server.socket_url, sounds)
        return Findings(answers, false_starts, _p99(server))


def _offline(
    corpus: Path, conditions: Sequence[Condition], sounds: dict[str, Pcm], arguments: argparse.Namespace
) -> Findings:
    config = read_config(arguments.config, ["lanes.max=1"])
    stages = open_stages(config)
    sampling = config.settings.sampling_for(stages.bundle.recommended_sampling, 1)
    answers: dict[str, list[Outcome]] = {}
    for number, condition in enumerate(conditions):
        asked = questions(corpus, condition, arguments.count)
        found = answers[condition.name] = []
        for start in range(0, len(asked), QUESTIONS_PER_SESSION):
            sent = script(
                asked[start : start + QUESTIONS_PER_SESSION], condition.snr_db, 1000 * number + start
            )
            found += [one for one in ask_offline(stages, sampling, sent) if one.question.counted]
        print(f"{condition.name}: {len(found)} asked", file=sys.stderr, flush=True)
    false_starts = {name: listen_offline(stages, sampling, sound) for name, sound in sounds.items()}
    return Findings(answers, false_starts, None)


def evaluate(arguments: argparse.Namespace) -> None:
    """Ask every question, transcribe the answers, print the report."""
    cache = cache_folder(arguments.cache)
    corpus: Path = arguments.corpus or cache / "corpus"
    conditions = [one for one in CONDITIONS if not arguments.only or one.name in arguments.only]
    sounds = interferences(corpus, arguments.interference_s) if arguments.interference_s else {}
    findings = (_offline if arguments.offline else _through_server)(corpus, conditions, sounds, arguments)
    answers = findings.answers
    judge = Judge(cache) if arguments.judge else None
    transcribed: dict[str, list[Transcripts] | None] = {}
    for name, outcomes in answers.items():
        transcribed[name] = transcripts(judge, outcomes)
        if judge is not None:
            print(f"{name}: {len(outcomes)} judged", file=sys.stderr, flush=True)
    report = {
        "conditions": {
            one.name: row(answers[one.name], transcribed[one.name], stopped)
            if one.aside == "stop"
            else row(answers[one.name], transcribed[one.name])
            for one in conditions
        },
        "families": by_family(answers, transcribed),
        "false_starts": findings.false_starts,
        "interference_s": arguments.interference_s,
        "p99_ms": findings.p99_ms,
    }
    print(table(report))
    if arguments.json is not None:
        text = json.dumps(report, indent=2, default=asdict)
        write_whole(arguments.json, f"{text}\n".encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.evaluate",
        description="Evaluate a checkpoint through a running server.",
    )
    parser.add_argument("--config", metavar="DIR", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--corpus", metavar="DIR", type=Path, help="recordings (default: CACHE/corpus)")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help=f"where models and recordings are kept (default: {CACHE_VARIABLE}, or the user's cache)",
    )
    parser.add_argument("--count", type=int, default=60, help="questions a condition (default 60)")
    parser.add_argument("--only", metavar="CONDITION", nargs="*", help="these conditions alone")
    parser.add_argument("--at-once", type=int, default=4, help="sessions at a time (default 4)")
    parser.add_argument(
        "--interference-s", type=float, default=600.0, help="of each kind of sound (default 600)"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="without a server, as fast as it goes: for a machine that is too busy to hold real time",
    )
    parser.add_argument("--no-judge", dest="judge", action="store_false", help="do not use the recognizer")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")
    arguments = parser.parse_args(argv)
    evaluate(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
