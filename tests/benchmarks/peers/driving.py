"""The common part of all drivers: read a job, run it, print the result as one JSON line.

A driver is a process in the environment of its contender, so this needs NumPy and nothing else.
The driver provides a `Driver`, which is timed here, and run on a fixed input so that the outputs of
contenders can be compared. Every timed call ends with its result in NumPy.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np


class Codec(Protocol):
    """A streaming codec of some width."""

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        """`[w, 1920]` float32 → codes `[w, K]`."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """`[w, K]` → `[w, 1920]` float32."""


class Language(Protocol):
    """A streaming language model of some width."""

    def step(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Users' codes `[w, n_user]` → text `[w]`, whole agent frames `[w, dep_q]` or None."""


class Products(Protocol):
    """The products of a step by themselves, with some number of rows."""

    def run(self) -> list[np.ndarray]:
        """The output of each product, `[w, out]`."""


class ProductDriver(Protocol):
    """One contender in the products. `weight` and `rows` of this module are their numbers."""

    versions: dict[str, str]

    def products(self, width: int) -> Products: ...


class Driver(Protocol):
    """One contender. Each codec and language model it opens starts with empty state.

    early_frames: how many frames earlier than the others it needs its input, for the same output.
    """

    versions: dict[str, str]
    early_frames: int

    def codec(self, width: int) -> Codec: ...

    def language(self, width: int, *, greedy: bool) -> Language: ...


class Clock:
    """Times calls: first warm-up calls, then as many as fit into `seconds`."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._seconds = job["seconds"]
        self._warmup = job["warmup_frames"]
        self._frames = job["frames"]

    def measure(self, call: Callable[[int], object]) -> list[float]:
        """Milliseconds of each timed `call(frame)`; three at least, however slow it is."""
        for frame in range(self._warmup):
            call(frame)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < self._frames and (len(times) < 3 or time.perf_counter() - began < self._seconds):
            before = time.perf_counter()
            call(self._warmup + len(times))
            times.append(1000 * (time.perf_counter() - before))
        return times


class Inputs:
    """The audio and the codes of a job, the same for every contender; each row of a batch differs."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._pcm = np.load(job["pcm"])
        self._codes = np.load(job["codes"])

    def pcm(self, frame: int, width: int) -> np.ndarray:
        """`[w, 1920]`."""
        return np.ascontiguousarray(self._pcm[(frame + 5 * np.arange(width)) % len(self._pcm)])

    def codes(self, frame: int, width: int, codebooks: int) -> np.ndarray:
        """`[w, codebooks]` int32."""
        return np.ascontiguousarray(
            self._codes[(frame + 5 * np.arange(width)) % len(self._codes), :codebooks]
        )


def _answers(driver: Driver, job: dict[str, Any], inputs: Inputs) -> dict[str, np.ndarray]:
    """The contender's output for the first frames, in a batch of one with greedy sampling."""
    if job["compared_frames"] == 0:
        return {}
    frames, answers = range(job["compared_frames"]), {}
    if job["kind"] == "mimi":
        codec = driver.codec(1)
        answers["codes"] = np.stack([codec.encode(inputs.pcm(frame, 1))[0] for frame in frames])
        codec = driver.codec(1)
        pcm = [codec.decode(inputs.codes(frame, 1, job["codebooks"]))[0] for frame in frames]
        answers["pcm"] = np.stack(pcm)
    elif job["kind"] == "lm":
        language = driver.language(1, greedy=True)
        users = job["user_codebooks"]
        steps = [language.step(inputs.codes(frame + driver.early_frames, 1, users)) for frame in frames]
        answers["text"] = np.stack([text[0] for text, _ in steps])
        answers["audio"] = np.stack([audio[0] for _, audio in steps if audio is not None])
    return answers


def _times(driver: Driver, job: dict[str, Any], inputs: Inputs, width: int) -> dict[str, list[float]]:
    clock = Clock(job)
    if job["kind"] == "mimi":
        codec = driver.codec(width)
        return {
            "encode": clock.measure(lambda frame: codec.encode(inputs.pcm(frame, width))),
            "decode": clock.measure(lambda frame: codec.decode(inputs.codes(frame, width, job["codebooks"]))),
        }
    language = driver.language(width, greedy=False)
    if job["kind"] == "lm":
        users = job["user_codebooks"]
        return {"step": clock.measure(lambda frame: language.step(inputs.codes(frame, width, users)))}
    codec = driver.codec(width)

    def whole(frame: int) -> None:
        _, agent = language.step(codec.encode(inputs.pcm(frame, width)))
        if agent is not None:
            codec.decode(agent)

    return {"all": clock.measure(whole)}


_RANDOM: Final = np.random.default_rng(1).standard_normal(2**21, np.float32)


def weight(number: int, shape: Sequence[int]) -> np.ndarray:
    """The matrix of product `number`, the same for every contender; outputs are about as large as `rows`."""
    out, width = shape
    begin = 7919 * number % (_RANDOM.size // 2)
    return np.resize(_RANDOM[begin:], out * width).reshape(out, width) / np.float32(width**0.5)


def rows(width: int, count: int) -> np.ndarray:
    """The input `[count, width]` of every product of that width."""
    return np.ascontiguousarray(_RANDOM[: count * width].reshape(count, width))


def drive_products(open_driver: Callable[[dict[str, Any]], ProductDriver], job: dict[str, Any]) -> None:
    """As `drive`, for the products of a step by themselves."""
    driver = open_driver(job)
    first = [np.array(y[0, :8]) for y in driver.products(1).run()] if job["compared_frames"] else []
    np.savez(job["answers"], products=np.concatenate(first) if first else np.zeros(0))
    times: dict[str, Any] = {}
    for width in job["widths"]:
        products = driver.products(width)
        times[str(width)] = {"products": Clock(job).measure(lambda _, each=products: each.run())}
    print(json.dumps({"versions": driver.versions, "ms": times, "cannot": {}}), flush=True)


def read_job() -> dict[str, Any]:
    """The job named on the command line."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def drive(open_driver: Callable[[dict[str, Any]], Driver], job: dict[str, Any]) -> None:
    """Run the job, and print the result."""
    driver = open_driver(job)
    inputs = Inputs(job)
    np.savez(job["answers"], **_answers(driver, job, inputs))
    result: dict[str, Any] = {"versions": driver.versions, "ms": {}, "cannot": {}}
    for width in job["widths"]:
        try:
            result["ms"][str(width)] = _times(driver, job, inputs, width)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            result["cannot"][str(width)] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    print(json.dumps(result), flush=True)
