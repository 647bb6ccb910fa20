"""The report: tables, method, agreement of outputs, and contenders that did not run.

A page in Markdown for the docs, or one JSON object with every round.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.peers.cases import CONTENDERS, OURS, Case
from benchmarks.peers.rounds import Plan, Rates, Run
from benchmarks.peers.table import Row, formats_table, lanes_table, rows_of, times_table

from pipeline.diagnostics import microbenchmarks

BUSY_LOAD: Final = 0.5
_TOKENS: Final = {"codes": "codes", "text": "text tokens", "audio": "audio tokens"}
_NUMBERS: Final = {"pcm": "samples of given codes", "products": "outputs with the same weights"}
# As Linux names them, of x86-64 and of 64-bit ARM.
_INSTRUCTION_SETS: Final = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)
_NO_VERSIONS: Final = frozenset({"device", "blas", "kernels"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything measured in one case."""

    case: Case
    runs: Mapping[str, Run]
    rates: Rates

    @property
    def rows(self) -> list[Row]:
        """Its rows of the table."""
        return list(rows_of(self.case, self.runs, self.rates))


def page(outcomes: Sequence[Outcome], plan: Plan, skipped: Sequence[str], load: float) -> str:
    """The page. `skipped`: cases that were not run, and why. `load`: that of the machine at the start."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    paragraphs = [
        [_where(outcomes, plan)],
        [_how(outcomes, plan)],
        times_table(rows),
        lanes_table(rows),
        formats_table(rows),
        [f"The same input, greedily, the first {plan.compared_frames} frames:"],
        [line for outcome in outcomes for line in _agreement_lines(outcome)],
        ["Contenders and cases:"],
        [f"- **{contender.name}**: {contender.about}" for contender in CONTENDERS],
        [*(f"- `{outcome.case.name}`: {outcome.case.about}" for outcome in outcomes)],
        [line for outcome in outcomes for line in _absence_lines(outcome)],
        [f"- {reason}" for reason in skipped],
    ]
    if load > BUSY_LOAD:
        paragraphs.append(
            [f"**The machine was busy at the start (load {load:.1f}): these numbers are not reliable.**"]
        )
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def as_json(outcomes: Sequence[Outcome], plan: Plan, load: float) -> dict[str, Any]:
    """The same as one object, with every round."""
    return {
        "date": _today(),
        "machine": microbenchmarks.describe() | {"processor": _processor(), "load_before": load},
        "plan": asdict(plan),
        "rates": [{"case": o.case.name, **asdict(o.rates)} for o in outcomes],
        "rows": [
            asdict(row) | {"floor_ms": row.floor_ms, "best_peer": row.best_peer, "ratio": row.ratio}
            for outcome in outcomes
            for row in outcome.rows
        ],
        "versions": {name: run.versions for o in outcomes for name, run in o.runs.items()},
        "agreement": [found for outcome in outcomes for found in agreement(outcome)],
        "cannot": [
            {"case": o.case.name, "contender": name, "width": width, "why": why}
            for o in outcomes
            for name, run in o.runs.items()
            for width, why in run.cannot.items()
        ],
    }


def agreement(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """How many of our codes and tokens each exact peer computes too, from the same input."""
    ours = outcome.runs[OURS].answers
    exact = {contender.name for contender in CONTENDERS if contender.exact} - {OURS}
    for name, run in outcome.runs.items():
        if name not in exact or not run.answers or not ours:
            continue
        found: dict[str, Any] = {"case": outcome.case.name, "contender": name}
        for what in _TOKENS.keys() & ours.keys():
            found[what] = [int(np.sum(ours[what] == run.answers[what])), int(ours[what].size)]
        for what in _NUMBERS.keys() & ours.keys():
            found[what] = float(np.abs(ours[what] - run.answers[what]).max())
        yield found


def _where(outcomes: Sequence[Outcome], plan: Plan) -> str:
    about = microbenchmarks.describe()
    versions = {
        f"{name} {version}"
        for outcome in outcomes
        for run in outcome.runs.values()
        for name, version in run.versions.items()
        if name not in _NO_VERSIONS
    }
    return (
        f"{_today()}, {_processor()}, {about['cores']} cores, {plan.threads} threads each, "
        f"{about['system']}, Python {about['python']}; {', '.join(sorted(versions))}."
    )


def _how(outcomes: Sequence[Outcome], plan: Plan) -> str:
    read_gb = max(outcome.rates.read_bytes_per_s for outcome in outcomes) / 1e9
    gflop = max(outcome.rates.flop_per_s for outcome in outcomes) / 1e9
    return (
        f"Milliseconds of one frame of the whole batch: of the medians of {_rounds(outcomes)} rounds the "
        "median (lowest–highest). In each round every contender runs once, in a process of its own: "
        f"{plan.warmup_frames} warm-up frames, then {plan.seconds:g} s or {plan.frames} frames. "
        "Ratios are taken within a round. Floor: the longer of the weights' bytes at "
        f"{read_gb:.1f} GB/s and the operations at {gflop:.0f} GFLOP/s, both measured in the same rounds."
    )


def _rounds(outcomes: Sequence[Outcome]) -> str:
    """How many rounds there were of each case: one number, or the least and the most."""
    made = {max(len(run.ms) for run in outcome.runs.values()) for outcome in outcomes}
    return " to ".join(str(count) for count in sorted({min(made), max(made)}))


def _agreement_lines(outcome: Outcome) -> Iterator[str]:
    for found in agreement(outcome):
        parts = [f"{found[k][0]} of {found[k][1]} {name} equal" for k, name in _TOKENS.items() if k in found]
        parts += [f"{about} within {found[what]:.0e}" for what, about in _NUMBERS.items() if what in found]
        yield f"- {found['case']}, {found['contender']}: {', '.join(parts)}"


def _absence_lines(outcome: Outcome) -> Iterator[str]:
    for name, run in outcome.runs.items():
        for width, why in run.cannot.items():
            yield f"- {outcome.case.name}, {name}{f', {width} lanes' if width else ''}: did not run ({why})"


def _today() -> str:
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    sets = [name for name in _INSTRUCTION_SETS if name in flags]
    name = names[0] if names else "processor"
    return f"{name} ({', '.join(sets)})" if sets else name
