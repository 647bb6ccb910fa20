"""`PYTHONPATH=.:tests python tests/benchmarks/kernel_threads.py [--seconds 1] [--rounds 5]`.

Measures the threads of the native kernels by the products of a step of a large model with one session
(matrices of 1024 by 4096, one row, packed in 4 bits and in float32). Prints one JSON object:

- `threads`: wall and processor time of a step with one thread, with as many as there are cores, and with each
  helper kept on a core of its own (`pinned`);
- `processes`: two processes that compute at the same time, each with one thread, with all cores, and with all
  cores in turns, as servers do: steps a second of both together; of a step, processor time and switches,
  voluntary and not.

The variants take turns, and each figure is the best of its rounds, so that other work on the machine matters
little to the ratios between them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import backend
from pipeline.diagnostics.microbenchmarks import describe
from pipeline.kernels.library import Library
from pipeline.system import resources

import mlx.core as mx  # isort: skip - after the BLAS

OUT, IN = 1024, 4096
WARM_UP = 3


def load_library() -> Library:
    """The kernels, or the end of the program."""
    found = backend.kernels()
    if not isinstance(found, Library):
        raise SystemExit(f"no native kernels: {found.reason}")
    return found


def make_step(library: Library, stored: str, megabytes: float) -> Callable[[], None]:
    """A call that multiplies one row with matrices of so many bytes altogether."""
    weight = mx.random.normal((OUT, IN))
    native = library.native
    if stored == "4 bits":
        parts = mx.quantize(weight.astype(mx.bfloat16), group_size=32, bits=4)
        sizes = sum(part.nbytes for part in parts)
        copies = [[mx.array(part) + 0 for part in parts] for _ in range(_count(megabytes, sizes))]
        mx.eval(copies)
        matrices = [native.Matrix(*each, 4, 32) for each in copies]
    else:
        dense = [weight + 0 for _ in range(_count(megabytes, weight.nbytes))]
        mx.eval(dense)
        matrices = [native.Matrix(each) for each in dense]
    x = mx.random.normal((1, IN))
    mx.eval(x)

    def step() -> None:
        mx.eval([native.linear(x, each) for each in matrices])

    return step


def _count(megabytes: float, size: int) -> int:
    return max(1, round(megabytes * 1e6 / size))


def measure(step: Callable[[], None], seconds: float) -> dict[str, float]:
    """Milliseconds of a step, the fastest, by the clock and of the processor; and context switches."""
    for _ in range(WARM_UP):
        step()
    wall, cpu = [], []
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    while len(wall) < 3 or time.perf_counter() - began < seconds:
        started, used = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_ms": 1000 * min(wall),
        "cpu_ms": 1000 * min(cpu),
        "mean_cpu_ms": 1000 * sum(cpu) / len(cpu),
        "per_s": len(wall) / sum(wall),
        "voluntary": (after.ru_nvcsw - before.ru_nvcsw) / len(wall),
        "involuntary": (after.ru_nivcsw - before.ru_nivcsw) / len(wall),
    }


def tasks() -> set[int]:
    """The threads of this process."""
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}


def compare_threads(stored: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One thread, all cores, and all cores with helpers that are kept on one core each."""
    library, cores = load_library(), sorted(os.sched_getaffinity(0))
    step = make_step(library, stored, options.megabytes)
    before = tasks()
    count = min(len(cores), resources.usable_cores())
    library.native.set_threads(count)
    helpers = sorted(tasks() - before)
    best: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for name in ("one", "all", "pinned"):
            library.native.set_threads(1 if name == "one" else count)
            for number, helper in enumerate(helpers):
                os.sched_setaffinity(helper, {cores[1 + number]} if name == "pinned" else set(cores))
            keep_best(best, name, measure(step, options.seconds))
    library.native.set_threads(1)
    return best


def keep_best(best: dict[str, dict[str, float]], name: str, found: dict[str, float]) -> None:
    """Remember each figure of `name` that is better than before: the larger rate, the smaller others."""
    kept = best.setdefault(name, found)
    best[name] = {
        key: max(value, kept[key]) if key == "per_s" else min(value, kept[key])
        for key, value in found.items()
    }


def compute_beside(stored: str, threads: int, options: argparse.Namespace) -> None:
    """One of several processes: start when a line comes, and print what was measured."""
    library = load_library()
    library.native.set_turns(options.turns)
    library.native.set_threads(threads)
    step = make_step(library, stored, options.megabytes)
    print("ready", flush=True)
    while sys.stdin.readline():
        print(json.dumps(measure(step, options.seconds)), flush=True)


def compare_processes(stored: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Two processes at once, each with one thread, with all cores, and with all cores in turns."""
    count = resources.usable_cores()
    pairs: dict[str, list[subprocess.Popen[str]]] = {}
    folder = tempfile.TemporaryDirectory()
    variants = (
        ("two of one thread", 1, ""),
        ("two of all cores", count, ""),
        ("two in turns", count, str(Path(folder.name, "turns"))),
    )
    try:
        for name, threads, turns in variants:
            pairs[name] = []
            for _ in range(2):
                command = [
                    sys.executable, __file__, "--beside", stored, "--threads", str(threads), "--turns", turns,
                    "--seconds", str(options.seconds), "--megabytes", str(options.megabytes),
                ]  # fmt: skip
                pairs[name].append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
        for pair in pairs.values():
            for each in pair:
                _line(each)
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for name, pair in pairs.items():
                for each in pair:
                    assert each.stdin is not None
                    print(file=each.stdin, flush=True)
                one, other = (json.loads(_line(each)) for each in pair)
                both = {key: (one[key] + other[key]) / (1 if key == "per_s" else 2) for key in one}
                keep_best(best, name, both)
        return best
    finally:
        for pair in pairs.values():
            for each in pair:
                each.kill()
                each.communicate()
        folder.cleanup()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("one of the processes has ended")
    return line


def rounded(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """To two digits behind the point."""
    return {name: {key: round(value, 2) for key, value in each.items()} for name, each in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each variant in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=256, help="of weights of a step")
    parser.add_argument("--beside", help=argparse.SUPPRESS)
    parser.add_argument("--turns", default="", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.beside is not None:
        compute_beside(options.beside, options.threads, options)
        return
    machine = describe()
    result: dict[str, Any] = {name: machine[name] for name in ("cores", "kernels", "load")}
    for stored in ("4 bits", "float32"):
        result[stored] = {
            "threads": rounded(compare_threads(stored, options)),
            "processes": rounded(compare_processes(stored, options)),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
