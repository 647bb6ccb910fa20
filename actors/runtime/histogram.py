"""Durations in constant memory: exact counts, sums and buckets, percentiles over the latest of them."""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 1024  # at 12.5 Hz the last 82 s
# Upper ends of the buckets: close around the budget of 30 ms and the 80 ms of real time.
BOUNDS_MS: Final = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 160, 240, 400, 800, 1600, 3200)
_BOUNDS_S: Final = tuple(bound / 1000 for bound in BOUNDS_MS)


@dataclass(frozen=True, slots=True)
class TimingStatistics:
    """Durations at one moment, in ms. Percentiles are of the last 1024; all are 0 before the first.

    `buckets[i]` counts those above `BOUNDS_MS[i - 1]` up to `BOUNDS_MS[i]`; the last one, all longer ones.
    """

    count: int
    total_ms: float
    avg_ms: float
    last_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    buckets: tuple[int, ...]


class Timing:
    """A stream of durations; memory does not grow with it."""

    def __init__(self) -> None:
        self.count = 0
        self._total_s = 0.0
        self._max_s = 0.0
        self._latest_s: deque[float] = deque(maxlen=WINDOW)
        self._buckets = [0] * (len(BOUNDS_MS) + 1)

    def add(self, duration_s: float) -> None:
        """Take one more."""
        self.count += 1
        self._total_s += duration_s
        self._max_s = max(self._max_s, duration_s)
        self._latest_s.append(duration_s)
        self._buckets[bisect_left(_BOUNDS_S, duration_s)] += 1

    def statistics(self) -> TimingStatistics:
        """The durations so far; a percentile is one of them (nearest rank), never between two."""
        ranked = sorted(self._latest_s) or [0.0]

        def percentile_ms(percent: int) -> float:
            return 1000 * ranked[math.ceil(len(ranked) * percent / 100) - 1]

        return TimingStatistics(
            count=self.count,
            total_ms=1000 * self._total_s,
            avg_ms=1000 * self._total_s / max(self.count, 1),
            last_ms=1000 * self._latest_s[-1] if self._latest_s else 0.0,
            p50_ms=percentile_ms(50),
            p95_ms=percentile_ms(95),
            p99_ms=percentile_ms(99),
            max_ms=1000 * self._max_s,
            buckets=tuple(self._buckets),
        )
