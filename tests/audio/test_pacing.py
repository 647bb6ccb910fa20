import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.pacing import FRAME_NS, MS_NS, DeadlineClock, Pace, Playout, SenderPace
from pipeline.units import BURST_FRAMES

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
    rng = random.Random(ppm)
    late = 0
    for index in range(0, DAY_FRAMES, 8):  # one frame in eight makes a day short
        arrived_ns = sent_ns(index, ppm) + rng.randrange(30 * MS_NS)
        answered_ns = arrived_ns + rng.randrange(BUDGET_NS)
        if index % 1000 == 0 and index:
            assert clock.is_underrun(index, arrived_ns, sent_ns(index, ppm) + 130 * MS_NS)
            late += 1
        else:
            assert not clock.is_underrun(index, arrived_ns, answered_ns), index
        if index > 400:
            error_ns = clock.deadline_ns(index) - (sent_ns(index, ppm) + TARGET_NS)
            assert -2 * MS_NS <= error_ns <= 30 * MS_NS
    assert late == (DAY_FRAMES - 1) // 1000


@given(st.integers(0, 2**63), st.lists(st.integers(0, 49 * MS_NS), min_size=1, max_size=50), st.data())
def test_an_underrun_arrived_in_time_and_left_late(start_ns, jitters_ns, data):
    """A frame is an underrun exactly if it arrived with the budget left and its answer left late."""
    clock = DeadlineClock(target_ms=80, budget_ms=30)
    anchor_ns = start_ns
    assert not clock.is_underrun(0, start_ns, start_ns)
    for index, jitter_ns in enumerate(jitters_ns, 1):
        arrived_ns = start_ns + FRAME_NS * index + jitter_ns
        deadline_ns = anchor_ns + FRAME_NS * index + TARGET_NS
        left_ns = data.draw(st.integers(arrived_ns, deadline_ns + FRAME_NS))
        assert clock.is_underrun(index, arrived_ns, left_ns) == (left_ns > deadline_ns)
        assert clock.deadline_ns(index) == deadline_ns


def test_a_frame_that_arrived_late_is_no_underrun():
    """Late in and late out is caused by the network; exactly the budget left is still in time."""
    clock = DeadlineClock(target_ms=80, budget_ms=30)
    clock.is_underrun(0, 0, 0)
    much_later = 5 * FRAME_NS
    assert clock.is_underrun(1, FRAME_NS + 50 * MS_NS, much_later)
    assert not clock.is_underrun(2, 2 * FRAME_NS + 50 * MS_NS + 1, much_later)


def test_a_pause_is_anchored_anew():
    """After a client's pause its next frames have new deadlines, at once."""
    clock = DeadlineClock()
    for index in range(20):
        assert not clock.is_underrun(index, FRAME_NS * index, FRAME_NS * index + BUDGET_NS)
    paused_ns = 60_000 * MS_NS
    for index in range(20, 40):
        arrived_ns = FRAME_NS * index + paused_ns
        assert not clock.is_underrun(index, arrived_ns, arrived_ns + BUDGET_NS)
        assert clock.deadline_ns(index) == arrived_ns + TARGET_NS
    late_ns = FRAME_NS * 40 + paused_ns
    assert clock.is_underrun(40, late_ns, late_ns + TARGET_NS + 1)


def test_a_stall_of_the_network_does_not_move_the_anchor():
    """Frames that a stall delayed arrive at once and are no underruns; later deadlines stay the same."""
    clock = DeadlineClock()
    for index in range(20):
        clock.is_underrun(index, FRAME_NS * index, FRAME_NS * index)
    for index in range(20, 31):
        arrived_ns = FRAME_NS * 30 + index
        assert not clock.is_underrun(index, arrived_ns, arrived_ns + BUDGET_NS)
    assert clock.deadline_ns(31) == FRAME_NS * 31 + TARGET_NS + 30  # 30 ns: the stall's last frame anchors


def test_a_burst_is_anchored_by_its_first_frame():
    """A client that sends bursts of eight plays from each burst's first frame; deadlines follow it."""
    clock = DeadlineClock()
    for burst in range(20):
        arrived_ns = FRAME_NS * 8 * burst + 640 * MS_NS
        for place in range(8):
            index = 8 * burst + place
            answered_ns = arrived_ns + 15 * MS_NS * (place + 1)
            assert not clock.is_underrun(index, arrived_ns, answered_ns)
            assert clock.deadline_ns(index) == arrived_ns + FRAME_NS * place + TARGET_NS


def test_frames_that_arrive_together_are_due_one_after_another():
    """They are taken one by one; what a burst has earned is used up again, and is the credit at most."""
    clock = DeadlineClock()
    for index in range(20):
        assert clock.due_ns(index, FRAME_NS * index) == FRAME_NS * index + TARGET_NS
    stalled_ns = FRAME_NS * 28
    for place in range(9):
        turn_ns = FRAME_NS * 7 // 8 * place
        assert clock.due_ns(20 + place, stalled_ns + place) == stalled_ns + TARGET_NS + turn_ns
    for index in range(29, 100):
        due_ns = clock.due_ns(index, FRAME_NS * index)
    assert due_ns == FRAME_NS * 99 + TARGET_NS
    for index in range(100, 200):
        due_ns = clock.due_ns(index, FRAME_NS * 100 + index)
    assert due_ns == FRAME_NS * 100 + 199 + BURST_FRAMES * FRAME_NS + TARGET_NS


def test_the_anchor_follows_after_the_window():
    """Arrivals that moved later for good, by less than a pause, are followed after 30 s."""
    clock = DeadlineClock()
    clock.is_underrun(0, 0, 0)
    moved_ns = 100 * MS_NS
    for index in range(1, 400):
        clock.is_underrun(index, FRAME_NS * index + moved_ns, FRAME_NS * index + moved_ns)
        expected_ns = 0 if index < 375 else moved_ns
        assert clock.deadline_ns(index) == FRAME_NS * index + TARGET_NS + expected_ns


@given(st.integers(0, 2**62), st.integers(0, 10**9))
def test_a_pace_never_drifts(start_ns, index):
    """Frame k is complete exactly 80·(k+1) ms after the start, however large k."""
    assert Pace(start_ns).due_ns(index) - start_ns == 80_000_000 * (index + 1)


@given(st.integers(0, 100), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), min_size=1))
def test_every_frame_that_is_not_there_in_time_is_an_underrun(first, steps):
    """Underruns are the frames skipped and those later than first arrival + prebuffer + 80·k."""
    playout = Playout(prebuffer_ms=100)
    index, inrngs, gaps = first, [], 0
    for skip, delay_ms in steps:
        if inrngs:
            index += 1 + skip
            gaps += skip
        inrngs.append(index)
        due_ns = (80 * (index - first) + 100 + steps[0][1]) * MS_NS
        arrived_ns = (80 * (index - first) + delay_ms) * MS_NS
        gaps += arrived_ns > due_ns
        playout.record_arrival(index, arrived_ns)
    assert playout.underruns == gaps


def test_a_pause_of_the_loudspeaker_is_no_underrun():
    """After it the first frame starts it again, however late and whatever its index."""
    playout = Playout(80)
    for index in range(3):
        playout.record_arrival(index, index * FRAME_NS)
    playout.pause()
    for index in range(5, 8):
        playout.record_arrival(index, (index + 100) * FRAME_NS)
    assert playout.underruns == 0
    playout.record_arrival(8, 200 * FRAME_NS)
    assert playout.underruns == 1


def test_a_client_that_sends_more_than_real_time_is_ahead_until_time_has_caught_up():
    """A burst of the credit is not too much, and no more than twice the credit counts."""
    pace = SenderPace()
    for burst in range(10):
        for _ in range(BURST_FRAMES):
            pace.record(FRAME_NS * BURST_FRAMES * burst)
            assert not pace.is_ahead(FRAME_NS * BURST_FRAMES * burst)
    now_ns = FRAME_NS * 1000
    for frame in range(100):
        pace.record(now_ns)
        assert pace.is_ahead(now_ns) == (frame > BURST_FRAMES)
    assert pace.is_ahead(now_ns + 2 * BURST_FRAMES * FRAME_NS - 1)
    assert not pace.is_ahead(now_ns + 2 * BURST_FRAMES * FRAME_NS)
