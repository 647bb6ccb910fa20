"""The search for the number of sessions that a server holds."""

import pytest
from benchmarks.sessions_held import MOST, search


def found(limit: int, most: int) -> tuple[int, list[int]]:
    """What the search finds where `limit` sessions are held, and what it asked for."""
    asked: list[int] = []
    probe = search(most)
    count = next(probe)
    while True:
        asked.append(count)
        try:
            count = probe.send(0.0 if count <= limit else 5.0)
        except StopIteration as done:
            return done.value, asked


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 21, 64, 127, 128])
def test_the_largest_number_that_is_held_is_found(limit: int) -> None:
    """With a probe for each doubling and each halving, and none twice."""
    held, asked = found(limit, MOST)
    assert held == limit
    assert len(set(asked)) == len(asked) <= 2 * MOST.bit_length()


def test_a_machine_that_holds_more_than_is_tried_holds_the_most() -> None:
    """No probe asks for more than the limit."""
    held, asked = found(1000, 20)
    assert held == max(asked) == 20
