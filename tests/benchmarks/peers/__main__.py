"""`make bench-peers`: the same frames through this project and through the alternatives to it.

    make bench-peers
    make bench-peers ARGS="--only mimi"                     one case, in two to four minutes
    make bench-peers ARGS="--rounds 9 --minutes 60"         more rounds
    make bench-peers ARGS="--with-2b"                       with the 2B architecture (22 GB of memory)
    make bench-peers ARGS="--warmup 3000 --only small"      with full ring caches

`.peers/` has the peers' environments, the checkpoints and the last report. Making them takes a quarter of an
hour the first time, which does not count. Exit codes: 0; 2 usage,
or a machine on which MLX does not use the CPU; 130 interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil
from benchmarks.peers.cases import CASES, CONTENDERS, SIZES, USUAL_CASES, Case
from benchmarks.peers.environments import BuildError, interpreter
from benchmarks.peers.material import make
from benchmarks.peers.page import Outcome, as_json, page
from benchmarks.peers.rounds import Plan, compete

from pipeline.diagnostics import microbenchmarks
from pipeline.diagnostics.cost_model import parameter_count
from pipeline.errors import ConfigError
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.system import resources
from pipeline.system.command import run_command

ROOT: Final = Path(__file__).parents[3]
MEMORY_FACTOR: Final = 1.2  # a margin for activations and other processes


def _fits(case: Case) -> bool:
    """Whether the weights, and the caches of the widest batch and a padding row, fit into free memory."""
    lm = parse_lm_config(SIZES[case.size])
    rings = 2 * lm.num_layers * lm.context * lm.dim * (max(case.widths) + 1)
    return MEMORY_FACTOR * 4 * (parameter_count(lm) + rings) < resources.available_bytes()


def _pythons(folder: Path, cases: Sequence[Case]) -> dict[str, Path | str]:
    """The interpreter of each environment, or the reason why there is none."""
    pythons: dict[str, Path | str] = {}
    kinds = {case.kind for case in cases}
    needed = [
        c.environment for c in CONTENDERS if c.environment is not None and not kinds.isdisjoint(c.widths)
    ]
    for name in dict.fromkeys(needed):
        try:
            pythons[name] = interpreter(folder, name, ROOT / "constraints.txt")
        except (BuildError, OSError) as error:
            pythons[name] = str(error)
    return pythons


def _chosen(names: Sequence[str]) -> list[Case]:
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        raise ConfigError("--only", f"{', '.join(unknown)}: there are {', '.join(CASES)}")
    return [CASES[name] for name in dict.fromkeys(names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="make bench-peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each contender runs, if there is time (default 3)"
    )
    parser.add_argument(
        "--minutes", type=float, default=12, help="for all cases together; one round of each (default 12)"
    )
    parser.add_argument(
        "--only", "--cases", default=",".join(USUAL_CASES), metavar="CASES", help=f"out of {', '.join(CASES)}"
    )
    parser.add_argument("--with-2b", action="store_true", help="include the 2B architecture")
    parser.add_argument(
        "--seconds", type=float, default=0.8, help="duration of each measurement (default 0.8)"
    )
    parser.add_argument("--warmup", type=int, default=5, help="warm-up frames (default 5)")
    parser.add_argument(
        "--threads", type=int, default=resources.usable_cores(), help="default: as many as cores"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".peers", help="default .peers")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a page")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads, options.warmup) < 1 or min(options.seconds, options.minutes) <= 0:
        parser.error("--rounds, --threads, --warmup, --seconds and --minutes must be positive")
    cases = _chosen(options.only.split(",") + (["2b"] if options.with_2b else []))
    device = microbenchmarks.describe()["device"]
    if device != "cpu":
        raise ConfigError("", f"this compares implementations on the CPU; MLX uses {device} here")
    load = psutil.getloadavg()[0]
    plan = Plan(options.rounds, options.seconds, options.warmup, options.threads)
    folder: Path = options.folder.resolve()
    pythons = _pythons(folder / "environments", cases)
    materials = {
        case.name: make(folder / "material", case.size, ROOT / "tests/data/speech.wav")
        for case in cases
        if _fits(case)
    }
    outcomes, skipped = [], []
    end = time.monotonic() + 60 * options.minutes
    for number, case in enumerate(cases):
        if case.name in materials:
            now = time.monotonic()
            until = now + (end - now) / (len(cases) - number)
            result = compete(case, materials[case.name], plan, pythons, folder, until=until)
            outcomes.append(Outcome(case, *result))
        else:
            skipped.append(f"{case.name}: not run, not enough memory")
            print(skipped[-1], file=sys.stderr)
    if not outcomes:
        raise ConfigError("--only", "nothing could be run")
    markdown = page(outcomes, plan, skipped, load)
    whole = json.dumps(as_json(outcomes, plan, load))
    (folder / "report.md").write_text(markdown + "\n")
    (folder / "report.json").write_text(whole + "\n")
    print(whole if options.json else markdown)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
