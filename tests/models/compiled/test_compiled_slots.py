"""Every lane has its own slot in a compiled batch, and there are few shapes of batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.compiled.inputs import Layout
from pipeline.models.compiled.slots import BatchSlots, batch_shapes, slot_count, slot_counts


@given(st.data())
def test_values_scattered_to_slots_come_back_in_order(data: st.DataObject) -> None:
    """Each lane gets its own value back; empty slots write to the scratch row."""
    lanes = data.draw(st.integers(1, 33))
    named = data.draw(st.lists(st.integers(0, lanes - 1), unique=True, max_size=lanes))
    padding = data.draw(st.integers(0 if named else 1, 5))
    slots = BatchSlots.of(np.array([*named, *[lanes] * padding], np.int32), lanes)
    assert (slots.width, slots.in_place) in batch_shapes(lanes)
    values = np.arange(100, 100 + len(named) + padding)
    assert (slots.scatter(values)[slots.order][: len(named)] == values[: len(named)]).all()
    rows = slots.rows(lanes)
    assert sorted(rows[rows < lanes]) == sorted(named)
    assert (rows[slots.order][: len(named)] == named).all()
    if slots.in_place:  # what is read there is the row that is written to
        assert (rows[slots.slots] == slots.slots).all()
        assert slots.width <= lanes
    positions = np.arange(lanes + 1) * 7
    starts = slots.starts(positions, lanes)
    assert (starts[slots.slots] == positions[named]).all()
    free = np.setdiff1d(np.arange(slots.width), slots.slots)
    assert (starts[free] == (0 if named else positions[lanes])).all()


@pytest.mark.parametrize(
    ("lanes", "count", "width", "in_place"),
    [
        ([0], 16, 1, True),
        ([1], 16, 2, True),
        ([2], 16, 1, False),
        ([0, 1, 2], 16, 4, True),
        ([15, 3], 16, 2, False),
        ([*range(9)], 9, 9, True),
        ([3, 4, 8], 9, 9, True),
        ([4], 5, 1, False),
    ],
)
def test_rings_are_gathered_where_that_is_cheaper(
    lanes: list[int], count: int, width: int, *, in_place: bool
) -> None:
    """A few lanes with high numbers are gathered; many, or those with low numbers, are read in place."""
    slots = BatchSlots.of(np.array(lanes, np.int32), count)
    assert (slots.width, slots.in_place) == (width, in_place)


@given(lanes=st.integers(1, 64), context=st.integers(1, 4000))
def test_there_are_few_shapes(lanes: int, context: int) -> None:
    """At most twice the doublings from 1 to the lanes, times those from 256 slots to the context."""
    widths = 2 * (lanes - 1).bit_length() + 1
    counts = slot_counts(context)
    assert len(set(batch_shapes(lanes))) == len(batch_shapes(lanes)) <= widths
    assert len(counts) <= max(1, (context - 1).bit_length() - 7)
    assert counts[-1] == context
    for filled in (1, context // 2 + 1, context):
        assert filled <= slot_count(filled, context) <= max(256, 2 * filled)


def test_a_layout_unpacks_what_it_packed() -> None:
    """By name, integers and floats; a value of another width is refused."""
    layout = Layout({"a": 1, "b": 3}, {"c": 2, "d": 1})
    values = {
        "a": np.array([1, -2]),
        "b": np.arange(6).reshape(2, 3),
        "c": np.array([[0.5, 1e-3], [2.0, -3.0]]),
        "d": np.array([[7.25], [8.0]]),
    }
    unpacked = layout.unpack(*layout.pack(values))
    for name, value in values.items():
        np.testing.assert_allclose(np.array(unpacked[name]), value.reshape(2, -1), rtol=1e-7)
    with pytest.raises(ValueError, match="reshape"):
        layout.pack(values | {"b": np.zeros((2, 4))})
