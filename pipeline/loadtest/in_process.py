"""The stages in this process, as fast as possible: one lane for many steps, and the cost of wider batches."""

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.audio.noise import noise_frames
from pipeline.diagnostics.stage_runner import StageRunner
from pipeline.percentiles import percentile, percentiles
from pipeline.stages.model_stages import ModelStages

WARM_STEPS: Final = 1000  # rings have wrapped, pools have grown
TENTHS: Final = 10
BLOCKS: Final = 20  # variants alternate, so that a busy moment affects all of them
DIFFERENT_FRAMES: Final = 64


def measure_ticks(stages: ModelStages, ticks: int, width: int = 8) -> dict[str, Any]:
    """Milliseconds of a batch of one lane, a batch of `width`, and `width` batches of one."""
    with StageRunner.of(stages) as runner:
        return _ticks(runner, ticks, width)


def _ticks(runner: StageRunner, ticks: int, width: int) -> dict[str, Any]:
    noise = noise_frames(width)

    def calls() -> None:
        for lane in range(width):
            runner.time_frame([lane], noise[lane : lane + 1])

    variants: dict[str, Callable[[], object]] = {
        "one_lane": lambda: runner.time_frame([0], noise[:1]),
        f"{width}_lanes": lambda: runner.time_frame(range(width), noise),
        f"{width}_calls": calls,
    }
    times_s: dict[str, list[float]] = {name: [] for name in variants}
    for block in range(BLOCKS + 1):
        for name, run_variant in variants.items():
            for _ in range(max(1, ticks // BLOCKS)):
                began_s = time.perf_counter()
                run_variant()
                if block:  # the first one warms up
                    times_s[name].append(time.perf_counter() - began_s)
    p50_ms = {name: 1000 * percentile(times, 50) for name, times in times_s.items()}
    one_ms, wide_ms, calls_ms = p50_ms.values()
    return {
        "p50_ms": {name: round(ms, 2) for name, ms in p50_ms.items()},
        "ratio": round(wide_ms / one_ms, 2),
        "ratio_of_calls": round(calls_ms / one_ms, 2),
        "violations": [],
    }


def measure_steps(stages: ModelStages, steps: int, report: Callable[[str], None]) -> dict[str, Any]:
    """One lane for `steps` frames: resident memory and step times of each tenth of the run."""
    with StageRunner.of(stages) as runner:
        return _steps(runner, steps, report)


def _steps(runner: StageRunner, steps: int, report: Callable[[str], None]) -> dict[str, Any]:
    noise, process = noise_frames(DIFFERENT_FRAMES), psutil.Process()
    for step in range(min(WARM_STEPS, steps)):
        runner.time_frame([0], noise[step % DIFFERENT_FRAMES][np.newaxis])
    rows = []
    warm_mib = process.memory_info().rss / 2**20
    for tenth in range(TENTHS):
        times_s: npt.NDArray[np.float64] = np.empty(max(1, steps // TENTHS))
        for step in range(len(times_s)):
            began_s = time.perf_counter()
            runner.time_frame([0], noise[step % DIFFERENT_FRAMES][np.newaxis])
            times_s[step] = time.perf_counter() - began_s
        p50_ms, p99_ms = (round(1000 * s, 2) for s in percentiles(times_s.tolist(), 50, 99))
        row = {"p50_ms": p50_ms, "p99_ms": p99_ms, "rss_mib": round(process.memory_info().rss / 2**20, 1)}
        rows.append(row)
        report(f"{(tenth + 1) * len(times_s)} steps: {row}")
    return {
        "steps": steps,
        "rss_growth_percent": round(100 * (rows[-1]["rss_mib"] / warm_mib - 1), 2),
        "p99_growth_percent": round(100 * (rows[-1]["p99_ms"] / rows[0]["p99_ms"] - 1), 1),
        "tenths": rows,
        "violations": [],
    }
