"""The common part of both GPU drivers: feed frames, time each stage, print a line for each width.

A driver is a process in the environment of its contender, so this needs NumPy and nothing else.
Each result is printed as a JSON line at once, so that a process that fails or is stopped later has
still reported it. A stage's time ends when its result is available.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FRAME_SAMPLES = 1920


class StagesUnderTest(Protocol):
    """The three stages for some sessions; codes between them have the contender's own type."""

    def encode(self, pcm: np.ndarray) -> Any: ...

    def step(self, codes: Any) -> Any:
        """The agent's codes, or None while it has none."""

    def decode(self, codes: Any) -> np.ndarray: ...

    def fill(self) -> bool:
        """Fill the caches, as in sessions longer than the context; False where that changes no time."""


class Contender(Protocol):
    """One implementation, with random weights made on the device."""

    about: dict[str, Any]

    def open(self, width: int) -> StagesUnderTest:
        """The stages for a width, ready to run; those of the previous width are released."""

    def memory_bytes(self) -> int:
        """The peak memory use of the device."""


def measure(stages: StagesUnderTest, width: int, frames: int, warmup: int) -> dict[str, list[float]]:
    """Milliseconds of every frame in every stage."""
    times: dict[str, list[float]] = {"encode": [], "step": [], "decode": []}
    noise = np.random.default_rng(width)
    for frame in range(-warmup, frames):
        pcm = noise.uniform(-0.3, 0.3, (width, FRAME_SAMPLES)).astype(np.float32)
        began = time.perf_counter()
        codes = stages.encode(pcm)
        encoded = time.perf_counter()
        agent = stages.step(codes)
        stepped = time.perf_counter()
        if agent is not None:
            stages.decode(agent)
        decoded = time.perf_counter()
        if frame >= 0 and agent is not None:
            times["encode"].append(1000 * (encoded - began))
            times["step"].append(1000 * (stepped - encoded))
            times["decode"].append(1000 * (decoded - stepped))
    return times


def one_width(contender: Contender, width: int, job: dict[str, Any]) -> dict[str, Any]:
    """The result of a width: with empty caches, and with full ones where that makes a difference."""
    began = time.perf_counter()
    stages = contender.open(width)
    ready_s = time.perf_counter() - began
    result = {"width": width, "ready_s": ready_s, "ms": measure(stages, width, job["frames"], job["warmup"])}
    result["full_ms"] = (
        measure(stages, width, job["frames"], job["warmup"]) if stages.fill() else result["ms"]
    )
    result["memory_bytes"] = contender.memory_bytes()
    return result


def emit(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def drive(make: Callable[[dict[str, Any]], Contender]) -> None:
    """Run the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    contender = make(job)
    emit({"about": contender.about})
    for width in job["widths"]:
        try:
            emit(one_width(contender, width, job))
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [""])[0]
            emit({"width": width, "cannot": f"{type(error).__name__}: {reason}"})
