import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.pacing import FRAME_NS, MS_NS, DeadlineClock, Pace, Playout

DAY_FRAMES = 24 * 3600 * 1000 // 80
TARGET_NS = 80 * MS_NS
BUDGET_NS = 30 * MS_NS


def sent_ns(index: int, ppm: int) -> int:
    """When a client whose clock runs `ppm` fast completes frame `index`, by our clock."""
    return 7_000_000_000 + FRAME_NS * index - FRAME_NS * index * ppm // 1_000_000


@pytest.mark.parametrize("ppm", [-50, 50])
def test_a_day_of_drift_and_jitter_has_no_underrun_and_hides_none(ppm):
    """Over a day of a clock 50 ppm off and 30 ms of jitter, on-time answers never count and late ones do.

    The inferred deadline stays within the jitter, and what clocks drift in the window, of the true one.
    """
    clock = DeadlineClock(target_ms=80, budget_ms=30)
    dice = random.Random(ppm)
    late = 0
    for index in range(0, DAY_FRAMES, 8):  # one frame in eight makes a day short
        arrived_ns = sent_ns(index, ppm) + dice.randrange(30 * MS_NS)
        answered_ns = arrived_ns + dice.randrange(BUDGET_NS)
        if index % 1000 == 0 and index:
            assert clock.judge(index, arrived_ns, sent_ns(index, ppm) + 130 * MS_NS)
            late += 1
        else:
            assert not clock.judge(index, arrived_ns, answered_ns), index
        if index > 400:
            error_ns = clock.deadline_ns(index) - (sent_ns(index, ppm) + TARGET_NS)
            assert -2 * MS_NS <= error_ns <= 30 * MS_NS
    assert late == (DAY_FRAMES - 1) // 1000


@given(st.integers(0, 2**63), st.lists(st.integers(0, 49 * MS_NS), min_size=1, max_size=50), st.data())
def test_an_underrun_is_in_time_in_and_late_out(start_ns, jitters_ns, data):
    """A frame is an underrun exactly if it arrived with the budget left and left after its deadline."""
    clock = DeadlineClock(target_ms=80, budget_ms=30)
    anchor_ns = start_ns
    assert not clock.judge(0, start_ns, start_ns)
    for index, jitter_ns in enumerate(jitters_ns, 1):
        arrived_ns = start_ns + FRAME_NS * index + jitter_ns
        deadline_ns = anchor_ns + FRAME_NS * index + TARGET_NS
        left_ns = data.draw(st.integers(arrived_ns, deadline_ns + FRAME_NS))
        assert clock.judge(index, arrived_ns, left_ns) == (left_ns > deadline_ns)
        assert clock.deadline_ns(index) == deadline_ns


def test_a_frame_that_came_late_is_not_our_underrun():
    """Late in and late out is the network's doing; the budget's edge belongs to in time."""
    clock = DeadlineClock(target_ms=80, budget_ms=30)
    clock.judge(0, 0, 0)
    much_later = 5 * FRAME_NS
    assert clock.judge(1, FRAME_NS + 50 * MS_NS, much_later)
    assert not clock.judge(2, 2 * FRAME_NS + 50 * MS_NS + 1, much_later)


def test_a_pause_is_anchored_anew():
    """After a client's silence its next frames are judged by the new line, at once."""
    clock = DeadlineClock()
    for index in range(20):
        assert not clock.judge(index, FRAME_NS * index, FRAME_NS * index + BUDGET_NS)
    paused_ns = 60_000 * MS_NS
    for index in range(20, 40):
        arrived_ns = FRAME_NS * index + paused_ns
        assert not clock.judge(index, arrived_ns, arrived_ns + BUDGET_NS)
        assert clock.deadline_ns(index) == arrived_ns + TARGET_NS
    late_ns = FRAME_NS * 40 + paused_ns
    assert clock.judge(40, late_ns, late_ns + TARGET_NS + 1)


def test_a_stall_of_the_network_does_not_move_the_anchor():
    """What a stall held back arrives at once, is nobody's underrun, and the old line holds after it."""
    clock = DeadlineClock()
    for index in range(20):
        clock.judge(index, FRAME_NS * index, FRAME_NS * index)
    for index in range(20, 31):
        arrived_ns = FRAME_NS * 30 + index
        assert not clock.judge(index, arrived_ns, arrived_ns + BUDGET_NS)
    assert clock.deadline_ns(31) == FRAME_NS * 31 + TARGET_NS + 30  # 30 ns: the stall's last frame anchors


def test_a_burst_is_anchored_by_its_first_frame():
    """A client that sends bursts of eight plays from each burst's first frame, and is judged so."""
    clock = DeadlineClock()
    for burst in range(20):
        arrived_ns = FRAME_NS * 8 * burst + 640 * MS_NS
        for place in range(8):
            index = 8 * burst + place
            answered_ns = arrived_ns + 15 * MS_NS * (place + 1)
            assert not clock.judge(index, arrived_ns, answered_ns)
            assert clock.deadline_ns(index) == arrived_ns + FRAME_NS * place + TARGET_NS


def test_the_window_forgets():
    """A line that moved later for good, by less than a pause, is followed after 30 s."""
    clock = DeadlineClock()
    clock.judge(0, 0, 0)
    moved_ns = 100 * MS_NS
    for index in range(1, 400):
        clock.judge(index, FRAME_NS * index + moved_ns, FRAME_NS * index + moved_ns)
        expected_ns = 0 if index < 375 else moved_ns
        assert clock.deadline_ns(index) == FRAME_NS * index + TARGET_NS + expected_ns


@given(st.integers(0, 2**62), st.integers(0, 10**9))
def test_a_pace_never_drifts(start_ns, index):
    """Frame k is complete exactly 80·(k+1) ms after the start, however large k."""
    assert Pace(start_ns).due_ns(index) - start_ns == 80_000_000 * (index + 1)


@given(st.integers(0, 100), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), min_size=1))
def test_a_listener_hears_a_gap_for_every_frame_not_there_in_time(first, steps):
    """Gaps are the frames passed over and those later than first arrival + prebuffer + 80·k."""
    playout = Playout(prebuffer_ms=100)
    index, indices, gaps = first, [], 0
    for skip, delay_ms in steps:
        if indices:
            index += 1 + skip
            gaps += skip
        indices.append(index)
        due_ns = (80 * (index - first) + 100 + steps[0][1]) * MS_NS
        arrived_ns = (80 * (index - first) + delay_ms) * MS_NS
        gaps += arrived_ns > due_ns
        playout.heard(index, arrived_ns)
    assert playout.underruns == gaps
