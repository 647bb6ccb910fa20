"""Whether a pinned prompt stays, and memory is constant, over hundreds of thousands of steps.

    PYTHONPATH=.:tests python tests/benchmarks/prompt_endurance.py [--steps 200000]

One session with a pinned prompt talks from the first step to the last. Beside it others join and leave, with
one of more prompts than are kept, or with none. The model is that of the goldens, so the ring of keys and
values is overwritten thousands of times. Exit code 1 if the prompt changed, or memory grew.
"""

import argparse
import sys

import psutil
from support.personas import golden_model, golden_stepper
from support.prompts import Endurance

TENTHS = 10
WARM_STEPS = 2000
ALLOWED_GROWTH = 1.01  # of resident memory, from the first tenth to the last


def run(steps: int) -> bool:
    """Take the steps and print a line for each tenth; whether the guarantees held."""
    import mlx.core as mx  # noqa: PLC0415 - the backend is chosen before

    stage = golden_stepper(golden_model(), lanes=3, prompt_cache_bytes=50_000, pins_prompts=True)
    endurance, process = Endurance(stage), psutil.Process()
    for number in range(WARM_STEPS):
        endurance.step(number)
    found = []
    for tenth in range(TENTHS):
        for number in range(steps // TENTHS):
            endurance.step(number)
        resident, arrays = process.memory_info().rss / 2**20, mx.get_active_memory()
        found.append((resident, arrays))
        print(
            f"{(tenth + 1) * (steps // TENTHS):>8} steps: resident {resident:.1f} MiB, "
            f"arrays {arrays / 2**20:.3f} MiB, position {stage._state.offsets[0]}, "
            f"prompt {'intact' if endurance.intact() else 'CHANGED'}",
            flush=True,
        )
    constant = found[-1][0] <= ALLOWED_GROWTH * found[0][0] and found[-1][1] <= ALLOWED_GROWTH * found[0][1]
    return constant and endurance.intact()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200_000)
    return 0 if run(parser.parse_args().steps) else 1


if __name__ == "__main__":
    sys.exit(main())
