"""What both drivers on a GPU do the same: feed frames, time each stage, print a line for each width.

A driver is a process in the environment of what it drives, so this needs NumPy and nothing
else. Lines are JSON and come as soon as they are known: a process that dies later, or is
stopped, has still said what it measured. A stage's time ends when its result is there.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FRAME_SAMPLES = 1920


class ModelStages(Protocol):
    """The three stages for some sessions; codes between them stay where the contender keeps them."""

    def encode(self, pcm: np.ndarray) -> Any: ...

    def step(self, codes: Any) -> Any:
        """The agent's codes, or None while it has none."""

    def decode(self, codes: Any) -> np.ndarray: ...

    def fill(self) -> bool:
        """From now on every session is longer than the context; False where that changes no time."""


class Contender(Protocol):
    """One implementation, with its weights made up on the device."""

    about: dict[str, Any]

    def open(self, width: int) -> ModelStages:
        """Whatever a width needs, ready to run; what the last one needed is given back."""

    def memory_bytes(self) -> int:
        """The most of the device's memory that was in use at a time."""


def measure(chain: ModelStages, width: int, frames: int, warmup: int) -> dict[str, list[float]]:
    """Milliseconds of every frame in every stage."""
    times: dict[str, list[float]] = {"encode": [], "step": [], "decode": []}
    noise = np.random.default_rng(width)
    for frame in range(-warmup, frames):
        pcm = noise.uniform(-0.3, 0.3, (width, FRAME_SAMPLES)).astype(np.float32)
        began = time.perf_counter()
        codes = chain.encode(pcm)
        encoded = time.perf_counter()
        agent = chain.step(codes)
        stepped = time.perf_counter()
        if agent is not None:
            chain.decode(agent)
        decoded = time.perf_counter()
        if frame >= 0 and agent is not None:
            times["encode"].append(1000 * (encoded - began))
            times["step"].append(1000 * (stepped - encoded))
            times["decode"].append(1000 * (decoded - stepped))
    return times


def one_width(contender: Contender, width: int, job: dict[str, Any]) -> dict[str, Any]:
    """All there is to say of a width: just begun, and with full rings where that makes a difference."""
    began = time.perf_counter()
    chain = contender.open(width)
    ready_s = time.perf_counter() - began
    said = {"width": width, "ready_s": ready_s, "ms": measure(chain, width, job["frames"], job["warmup"])}
    said["full_ms"] = measure(chain, width, job["frames"], job["warmup"]) if chain.fill() else said["ms"]
    said["memory_bytes"] = contender.memory_bytes()
    return said


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def drive(make: Callable[[dict[str, Any]], Contender]) -> None:
    """Do the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    contender = make(job)
    say({"about": contender.about})
    for width in job["widths"]:
        try:
            say(one_width(contender, width, job))
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [""])[0]
            say({"width": width, "cannot": f"{type(error).__name__}: {reason}"})
