"""Percentiles by nearest rank: the one definition behind every p50, p95 and p99 of this project.

A percentile is the smallest value that at least that percentage of the values do not exceed. It
is always one of the values, never a number between two. `web/static/voice/percentiles.js` is the
same definition for the page.
"""

from collections.abc import Iterable


def percentile(values: Iterable[float], percent: int) -> float:
    """The percentile of `values`, which are at least one; 100 gives the largest, 0 the smallest."""
    return percentiles(values, percent)[0]


def percentiles(values: Iterable[float], *percents: int) -> tuple[float, ...]:
    """Several percentiles of the same `values`, which are at least one and are sorted once."""
    ranked = sorted(values)
    return tuple(ranked[max(-(-len(ranked) * percent // 100), 1) - 1] for percent in percents)
