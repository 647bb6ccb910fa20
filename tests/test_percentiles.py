import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.percentiles import percentile, percentiles


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(0, 100))
def test_a_percentile_is_the_nearest_rank(values, percent):
    """It is NumPy's `inverted_cdf`: one of the values, and at least `percent` percent are not above it."""
    found = percentile(values, percent)
    assert found == np.percentile(values, percent, method="inverted_cdf")
    assert sum(value <= found for value in values) >= len(values) * percent / 100


def test_several_percentiles_of_unsorted_values():
    """The values may be in any order, and 100 is the maximum."""
    assert percentiles([30, 10, 20, 40], 50, 75, 100) == (20, 30, 40)
    assert percentiles(iter(range(1, 1001)), 50, 95, 99) == (500, 950, 990)
