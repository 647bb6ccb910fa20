"""Rows of a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.batch import bucket_width, padded, padded_rows


@given(st.integers(1, 200))
def test_a_bucket_is_the_smallest_power_of_two_that_holds_the_lanes(lanes: int) -> None:
    width = bucket_width(lanes)
    assert width >= lanes
    assert width & (width - 1) == 0
    assert lanes == 1 or width < 2 * lanes


@given(st.lists(st.integers(0, 15), unique=True, min_size=1))
def test_the_lanes_come_first_and_only_the_scratch_row_fills_up(lanes: list[int]) -> None:
    rows = padded_rows(lanes, scratch=16, in_buckets=True)
    assert rows[: len(lanes)].tolist() == lanes
    assert set(rows[len(lanes) :].tolist()) <= {16}


@given(st.lists(st.integers(0, 15), unique=True, min_size=1))
def test_without_buckets_a_batch_is_its_lanes(lanes: list[int]) -> None:
    assert padded_rows(lanes, scratch=16, in_buckets=False).tolist() == lanes


def test_a_lane_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        padded_rows([3, 1, 3], scratch=4)


def test_padding_adds_zeros_and_nothing_where_nothing_is_missing() -> None:
    values = np.ones((3, 2), np.float32)
    assert padded(values, 3) is values
    assert padded(values, 4).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
