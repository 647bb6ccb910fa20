"""The order of runs: A B C D, A B C D, …, in separate processes, so that a busy minute affects all."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.peers.cases import CONTENDERS, SIZES, Case, Contender
from benchmarks.peers.material import Material, product_shapes

HERE: Final = Path(__file__).parent
CODEBOOKS: Final = 8  # of the codec, for every size but 2b
MACHINE: Final = "drive_machine.py"
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_PROCESS_S: Final = 1200


class DriverError(Exception):
    """A driver failed; the message is its last line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often to measure. `threads`: for every contender.

    rounds: of each case, or fewer where the time for it is over; one at least.
    """

    rounds: int
    seconds: float
    warmup_frames: int
    threads: int
    frames: int = 60
    compared_frames: int = 16


@dataclass(slots=True)
class Run:
    """The results of one contender in one case.

    ms: one entry for each round, stage → width → milliseconds of each frame. answers: its
    output with greedy sampling. cannot: failures by width, or under "" for all widths.
    """

    ms: list[dict[str, dict[int, list[float]]]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    answers: dict[str, np.ndarray] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of the machine, the best of all rounds."""

    read_bytes_per_s: float
    flop_per_s: float


def compete(
    case: Case,
    material: Material,
    plan: Plan,
    pythons: Mapping[str, Path | str],
    folder: Path,
    *,
    until: float = math.inf,
) -> tuple[dict[str, Run], Rates]:
    """All rounds of one case. `pythons`: the interpreter of each environment, or why there is none.

    After the first round, none begins that would not be done at the monotonic time `until`.
    """
    chosen = [contender for contender in CONTENDERS if case.kind in contender.widths]
    runs = {contender.name: Run() for contender in chosen}
    rates = []
    for turn in range(plan.rounds):
        began = time.monotonic()
        for contender in chosen:
            run, python = runs[contender.name], _python(contender, pythons)
            if isinstance(python, str):
                run.cannot[""] = python
            if "" not in run.cannot:
                print(f"{case.name}, round {turn + 1} of {plan.rounds}: {contender.name}", file=sys.stderr)
                _turn(run, python, contender, _job(case, contender, material, plan, turn), folder)
        rates.append(_rates(plan, folder))
        now = time.monotonic()
        if now + (now - began) > until:
            break
    return runs, Rates(*(max(each) for each in zip(*rates, strict=True)))


def _python(contender: Contender, pythons: Mapping[str, Path | str]) -> Path | str:
    return Path(sys.executable) if contender.environment is None else pythons[contender.environment]


def _job(case: Case, contender: Contender, material: Material, plan: Plan, turn: int = 0) -> dict[str, Any]:
    lm = SIZES[case.size]
    return {
        "kind": case.kind,
        "options": contender.options,
        "widths": [width for width in case.widths if width in contender.widths[case.kind]],
        "seconds": plan.seconds,
        "warmup_frames": plan.warmup_frames,
        "frames": plan.frames,
        "compared_frames": plan.compared_frames if turn == 0 else 0,
        "threads": plan.threads,
        "codebooks": max(CODEBOOKS, lm["dep_q"]),
        "user_codebooks": lm["n_q"] - lm["dep_q"],
        "lm_config": lm,
        "stored": contender.stored,
        "products": product_shapes(material.lm) if case.kind == "products" else [],
        "config": str(material.stored(contender.stored)),
        "lm": str(material.lm_path),
        "mimi": str(material.mimi_path),
        "pcm": str(material.pcm),
        "codes": str(material.codes),
    }


def _turn(run: Run, python: Path, contender: Contender, job: dict[str, Any], folder: Path) -> None:
    answers = folder / "answers.npz"
    try:
        result = _run(python, HERE / contender.driver, job | {"answers": str(answers)}, folder)
    except DriverError as error:
        run.cannot[""] = str(error)
        return
    stages: dict[str, dict[int, list[float]]] = {}
    for width, times in result["ms"].items():
        for stage, ms in times.items():
            stages.setdefault(stage, {})[int(width)] = ms
    run.ms.append(stages)
    run.versions, run.cannot = result["versions"], result["cannot"]
    if job["compared_frames"]:
        with np.load(answers) as arrays:
            run.answers = dict(arrays)


def _rates(plan: Plan, folder: Path) -> tuple[float, float]:
    result = _run(Path(sys.executable), HERE / MACHINE, {"threads": plan.threads}, folder)
    return result["read_bytes_per_s"], result["flop_per_s"]


def _run(python: Path, driver: Path, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result that a driver printed.

    Raises:
        DriverError: it failed, or exceeded the time limit.
    """
    task = folder / "job.json"
    task.write_text(json.dumps(job))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= dict.fromkeys(_THREADS, str(job["threads"]))
    command = [python, driver, task]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=_PROCESS_S
        )
    except subprocess.TimeoutExpired:
        raise DriverError(f"was not done after {_PROCESS_S} s") from None
    if done.returncode:
        raise DriverError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
