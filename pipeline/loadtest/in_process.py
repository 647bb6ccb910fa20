"""The stages in this process, as fast as they go: one lane for very long, and what a wider tick costs."""

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.diagnostics.stage_runner import StageRunner
from pipeline.stages.model_stages import ModelStages
from pipeline.units import FRAME_SAMPLES
from pipeline.values import Pcm

WARM_STEPS: Final = 1000  # rings have wrapped, pools have grown
TENTHS: Final = 10
BLOCKS: Final = 20  # ways of ticking take turns, so that a busy moment hits all of them
DIFFERENT_FRAMES: Final = 64


def measure_ticks(chain: ModelStages, ticks: int, width: int = 8) -> dict[str, Any]:
    """Milliseconds of a tick with one lane, with `width`, and of `width` calls with one each."""
    with StageRunner.of(chain) as stages:
        return _ticks(stages, ticks, width)


def _ticks(stages: StageRunner, ticks: int, width: int) -> dict[str, Any]:
    noise = _noise(width)

    def calls() -> None:
        for lane in range(width):
            stages.frame([lane], noise[lane : lane + 1])

    ways: dict[str, Callable[[], object]] = {
        "one_lane": lambda: stages.frame([0], noise[:1]),
        f"{width}_lanes": lambda: stages.frame(range(width), noise),
        f"{width}_calls": calls,
    }
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    for block in range(BLOCKS + 1):
        for name, tick in ways.items():
            for _ in range(max(1, ticks // BLOCKS)):
                began_s = time.perf_counter()
                tick()
                if block:  # the first one warms up
                    times_s[name].append(time.perf_counter() - began_s)
    p50_ms = {name: 1000 * statistics.median(times) for name, times in times_s.items()}
    one_ms, wide_ms, calls_ms = p50_ms.values()
    return {
        "p50_ms": {name: round(ms, 2) for name, ms in p50_ms.items()},
        "ratio": round(wide_ms / one_ms, 2),
        "ratio_of_calls": round(calls_ms / one_ms, 2),
        "laws": [],
    }


def measure_steps(chain: ModelStages, steps: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """One lane for `steps` frames: resident memory and times, tenth by tenth."""
    with StageRunner.of(chain) as stages:
        return _steps(stages, steps, tell)


def _steps(stages: StageRunner, steps: int, tell: Callable[[str], None]) -> dict[str, Any]:
    noise, process = _noise(DIFFERENT_FRAMES), psutil.Process()
    for step in range(min(WARM_STEPS, steps)):
        stages.frame([0], noise[step % DIFFERENT_FRAMES][np.newaxis])
    rows = []
    warm_mib = process.memory_info().rss / 2**20
    for tenth in range(TENTHS):
        times_s: npt.NDArray[np.float64] = np.empty(max(1, steps // TENTHS))
        for step in range(len(times_s)):
            began_s = time.perf_counter()
            stages.frame([0], noise[step % DIFFERENT_FRAMES][np.newaxis])
            times_s[step] = time.perf_counter() - began_s
        p50_ms, p99_ms = (round(float(mark) * 1000, 2) for mark in np.percentile(times_s, (50, 99)))
        row = {"p50_ms": p50_ms, "p99_ms": p99_ms, "rss_mib": round(process.memory_info().rss / 2**20, 1)}
        rows.append(row)
        tell(f"{(tenth + 1) * len(times_s)} steps: {row}")
    return {
        "steps": steps,
        "rss_growth_percent": round(100 * (rows[-1]["rss_mib"] / warm_mib - 1), 2),
        "p99_growth_percent": round(100 * (rows[-1]["p99_ms"] / rows[0]["p99_ms"] - 1), 1),
        "tenths": rows,
        "laws": [],
    }


def _noise(frames: int) -> Pcm:
    generator = np.random.Generator(np.random.PCG64(2))
    return (0.1 * generator.standard_normal((frames, FRAME_SAMPLES))).astype(np.float32)
