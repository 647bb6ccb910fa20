"""Histograms of durations in constant memory: exact counts and sums, percentiles of the latest 1024."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Final

from pipeline.percentiles import percentiles

WINDOW: Final = 1024  # at 12.5 Hz the last 82 s
# Upper ends of the buckets: close around the budget of 30 ms and the 80 ms of real time.
BOUNDS_MS: Final = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 160, 240, 400, 800, 1600, 3200)
_BOUNDS_S: Final = tuple(bound / 1000 for bound in BOUNDS_MS)


@dataclass(frozen=True, slots=True)
class HistogramStatistics:
    """A histogram at one moment, in ms. Percentiles are of the latest 1024; all are 0 before the first.

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


class Histogram:
    """Durations, added one by one; its memory does not grow."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._max_s = 0.0
        self._latest_s: deque[float] = deque(maxlen=WINDOW)
        self._buckets = [0] * (len(BOUNDS_MS) + 1)

    def add(self, duration_s: float) -> None:
        """Add one duration."""
        self.count += 1
        self.total_s += duration_s
        self._max_s = max(self._max_s, duration_s)
        self._latest_s.append(duration_s)
        self._buckets[bisect_left(_BOUNDS_S, duration_s)] += 1

    def statistics(self) -> HistogramStatistics:
        """The durations so far; a percentile is one of them (nearest rank), never between two."""
        p50_s, p95_s, p99_s = percentiles(self._latest_s or [0.0], 50, 95, 99)
        return HistogramStatistics(
            count=self.count,
            total_ms=1000 * self.total_s,
            avg_ms=1000 * self.total_s / max(self.count, 1),
            last_ms=1000 * self._latest_s[-1] if self._latest_s else 0.0,
            p50_ms=1000 * p50_s,
            p95_ms=1000 * p95_s,
            p99_ms=1000 * p99_s,
            max_ms=1000 * self._max_s,
            buckets=tuple(self._buckets),
        )
