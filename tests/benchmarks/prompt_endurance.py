"""Whether a pinned prompt stays, and memory is constant, over hundreds of thousands of steps.

    PYTHONPATH=.:tests python tests/benchmarks/prompt_endurance.py [--steps 200000]

One session with a pinned prompt talks from the first step to the last. Beside it others join and leave, with
one of more prompts than are kept, or with none. The model is that of the goldens, so the ring of keys and
values is overwritten thousands of times. Exit code 1 if the prompt changed, or memory grew.
"""

import argparse
import sys

import numpy as np
import psutil
from support.personas import golden_model, golden_prompt, golden_stepper

from pipeline.stages.stepper import StepperStage
from pipeline.values import GREEDY, Prompt

TENTHS = 10
WARM_STEPS = 2000
ALLOWED_GROWTH = 1.01  # of resident memory, from the first tenth to the last
SESSION_STEPS = 250  # of those that join and leave
ROLES = 12


class Endurance:
    """A pinned session in lane 0, and others that come and go in lanes 1 and 2."""

    def __init__(self, stage: StepperStage) -> None:
        self.stage = stage
        wanted = golden_prompt("file")
        stage.open(0, GREEDY)
        stage.begin(0, wanted)
        self.positions = int(stage._state.offsets[0])
        self.before = self.pinned()
        self.users = np.random.default_rng(1).integers(0, 2048, (997, 3, 8)).astype(np.int32)
        self.joined: set[int] = set()

    def pinned(self) -> list[np.ndarray]:
        """Keys and values of the prompt, of every layer."""
        state = self.stage._state
        return [np.array(ring[0, :, : self.positions]) for ring in (*state.keys, *state.values)]

    def intact(self) -> bool:
        """Whether they are as they were, bit for bit."""
        return all(map(np.array_equal, self.pinned(), self.before))

    def step(self, number: int) -> None:
        """One step of all that talk; now and then one joins or leaves."""
        lane = 1 + number // SESSION_STEPS % 2
        if number % SESSION_STEPS == 0:
            if lane in self.joined:
                self.stage.close(lane)
            self.stage.open(lane, GREEDY)
            self.joined.add(lane)
            role = number // SESSION_STEPS % ROLES
            if role:
                self.stage.begin(lane, Prompt(f"role {role}", None, (5, 6, role)))
        lanes = [0, *sorted(self.joined)]
        self.stage.step(lanes, self.users[number % len(self.users), lanes])


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
