"""The durations in /health and /metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.histogram import BOUNDS_MS, WINDOW, Histogram


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40))
def test_percentiles_are_durations_that_occurred(durations_s):
    """Nearest rank: NumPy's `inverted_cdf`; count, mean, last and maximum are exact."""
    timing = Histogram()
    for duration_s in durations_s:
        timing.add(duration_s)
    found = timing.statistics()
    expected = np.percentile(durations_s, [50, 95, 99], method="inverted_cdf") * 1000
    assert [found.p50_ms, found.p95_ms, found.p99_ms] == pytest.approx(expected)
    assert found.count == len(durations_s)
    assert found.avg_ms == pytest.approx(1000 * np.mean(durations_s))
    assert (found.last_ms, found.max_ms) == (1000 * durations_s[-1], 1000 * max(durations_s))


def test_percentiles_are_of_the_latest_and_counts_of_all():
    """Memory is constant: durations older than the window are only counted and summed."""
    timing = Histogram()
    for _ in range(10):
        timing.add(5.0)
    for _ in range(WINDOW):
        timing.add(0.001)
    found = timing.statistics()
    assert (found.p99_ms, found.max_ms, found.count) == (1.0, 5000.0, WINDOW + 10)


@given(st.lists(st.one_of(st.floats(0, 10), st.sampled_from([bound / 1000 for bound in BOUNDS_MS]))))
def test_every_duration_is_in_one_bucket(durations_s):
    """In the first whose bound is not less; the last bucket has those longer than every bound."""
    timing = Histogram()
    for duration_s in durations_s:
        timing.add(duration_s)
    found = timing.statistics()
    bounds_s = [bound / 1000 for bound in BOUNDS_MS]
    cumulative = [sum(duration_s <= bound_s for duration_s in durations_s) for bound_s in bounds_s]
    assert list(np.cumsum(found.buckets)) == [*cumulative, len(durations_s)]
    assert found.total_ms == pytest.approx(1000 * sum(durations_s))


def test_before_the_first_everything_is_zero():
    """An empty histogram has statistics too."""
    assert Histogram().statistics().p99_ms == Histogram().statistics().avg_ms == 0
