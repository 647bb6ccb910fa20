"""The limit follows what a simulated machine holds, by a simulated clock, without oscillating."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.sessions.concurrency_limit import (
    GROW_AFTER_S,
    MAX_BACKOFF_S,
    MIN_BACKOFF_S,
    OBSERVE_EVERY_S,
    PROBE_LATE_S,
    ConcurrencyLimit,
    Observation,
)

FRAMES = round(12.5 * OBSERVE_EVERY_S)


@dataclass
class Machine:
    """Serves `holds(t)` sessions in time; each one beyond makes a share of all frames late, one less tight.

    Overload shows in one of `shows_each` observations only.
    `demand(t)` sessions want to run. `history` has (time, running, share of frames that were late).
    """

    law: ConcurrencyLimit
    holds: Callable[[float], int]
    demand: Callable[[float], int]
    stalls: tuple[tuple[float, float], ...] = ()
    shows_each: int = 1
    busy: Callable[[int, int], float] = lambda running, holds: 0.0
    history: list[tuple[float, int, float]] = field(default_factory=list)
    running: int = 0

    def run(self, seconds: float) -> "Machine":
        now_s = 0.0
        while now_s < seconds:
            now_s += OBSERVE_EVERY_S
            demand, holds = self.demand(now_s), self.holds(now_s)
            self.running = min(self.running, demand)
            over = self.running - holds
            late = 0.0 if over <= 0 else min(1.0, 0.1 + 0.3 * over / holds)
            if len(self.history) % self.shows_each:
                late = 0.0
            if any(begin <= now_s < end for begin, end in self.stalls):
                late = 1.0
            frames = self.running * FRAMES
            tight = late if over else max(late, 0.05)
            seen = Observation(
                frames=frames,
                late=round(late * frames),
                tight=round(tight * frames),
                cost_s=1 / holds,
                busy=self.busy(self.running, holds),
                running=self.running,
                waiting=demand - self.running,
            )
            limit = self.law.observe(seen, now_s)
            self.history.append((now_s, self.running, late))
            if self.running > limit:
                self.running -= 1
            elif self.running < min(limit, demand):
                self.running = min(limit, demand)
        return self

    def at(self, now_s: float) -> int:
        return next(running for when, running, _ in self.history if when >= now_s)

    def late_share(self, begin_s: float, end_s: float) -> float:
        shares = [late for when, _, late in self.history if begin_s <= when < end_s]
        return sum(shares) / len(shares)


def always(number: int) -> Callable[[float], int]:
    return lambda _: number


def test_a_right_measurement_is_kept():
    """Demand beyond it is left to wait; attempts to grow fail, ever more rarely, and are taken back."""
    machine = Machine(ConcurrencyLimit(4, 16), always(4), always(20)).run(600)
    assert machine.at(300) in (4, 5)
    assert machine.late_share(0, 600) < 0.02
    grown = [b for (_, a, _), (_, b, _) in zip(machine.history, machine.history[1:], strict=False) if b > a]
    doublings = math.log2(MAX_BACKOFF_S / MIN_BACKOFF_S)
    assert len(grown) <= 2 + doublings + 600 / MAX_BACKOFF_S


def test_a_measurement_that_was_too_low_is_corrected():
    """By one at a time, as long as answers are on time."""
    machine = Machine(ConcurrencyLimit(4, 16), always(8), always(20)).run(120)
    assert machine.at(60) == 8


def test_a_measurement_that_was_too_high_is_corrected():
    """Sessions are put back until those that remain are on time, the last of them within half a minute."""
    machine = Machine(ConcurrencyLimit(16, 16), always(4), always(16)).run(120)
    assert machine.at(25) == 4
    assert machine.late_share(30, 120) < 0.05


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.5])
def test_a_stall_or_a_burst_of_openings_changes_nothing(seconds):
    """What ends by itself before it lasts is no state of the machine."""
    machine = Machine(ConcurrencyLimit(4, 4), always(4), always(4), stalls=((30, 30 + seconds),)).run(60)
    assert {running for when, running, _ in machine.history if when > 1} == {4}
    assert machine.law.limit == 4


def test_a_machine_that_is_slower_for_a_minute_takes_its_sessions_back():
    """They are put back while it lasts, and run again within seconds of its end, one after the other."""
    machine = Machine(ConcurrencyLimit(8, 8), lambda t: 3 if 60 <= t < 120 else 8, always(8)).run(240)
    assert machine.at(75) == 3
    assert machine.at(120 + 5) > 3
    assert machine.at(160) == 8
    assert machine.late_share(85, 120) < 0.05


def test_a_machine_that_stays_slower_settles():
    """It is not tried again and again: at most once in `MAX_BACKOFF_S`."""
    machine = Machine(ConcurrencyLimit(8, 8), lambda t: 3 if t >= 60 else 8, always(8)).run(1200)
    assert machine.late_share(120, 1200) < 0.02
    assert machine.at(1199) in (3, 4)


@pytest.mark.parametrize("shows_each", [2, 3])
def test_overload_that_does_not_show_all_the_time_is_overload(shows_each):
    """Late frames in some observations, and none in between, put sessions back as well, and none is added."""
    machine = Machine(ConcurrencyLimit(8, 16), always(6), always(16), shows_each=shows_each).run(300)
    assert machine.at(60) <= 7
    assert machine.late_share(60, 300) < 0.05


def test_tight_answers_in_the_last_seconds_prevent_growth():
    """However few are tight at the moment."""
    law = ConcurrencyLimit(4, 8)
    for n in range(200):
        tight = 0 if n % 3 == 0 else 20
        law.observe(
            Observation(frames=50, late=0, tight=tight, cost_s=1, busy=0, running=4, waiting=4), n * 0.5
        )
    assert law.limit == 4


def test_busy_models_prevent_growth():
    """Where one session more would need more than the models' threads have, it is not tried."""
    machine = Machine(
        ConcurrencyLimit(4, 16), always(8), always(20), busy=lambda running, holds: 0.85 * running / holds
    ).run(600)
    assert machine.at(60) == 7
    assert machine.late_share(0, 600) == 0


def test_a_failed_attempt_to_grow_ends_within_seconds():
    """Lateness right after growing is owed to it, so that the limit goes back at once."""
    machine = Machine(ConcurrencyLimit(4, 16), always(4), always(20)).run(60)
    grown = [when for when, running, _ in machine.history if running == 5]
    assert grown
    assert (
        len([when for when in grown if when < grown[0] + 9]) * OBSERVE_EVERY_S
        <= PROBE_LATE_S + OBSERVE_EVERY_S
    )


def test_a_place_is_given_at_once():
    """A session that leaves makes room for the next; nothing has to be observed for that."""
    machine = Machine(ConcurrencyLimit(4, 4), always(4), lambda t: 10 if t < 60 else 3 if t < 61 else 10).run(
        90
    )
    assert machine.at(62) == 4


def test_growth_waits_for_demand():
    """A limit that is not reached does not change."""
    machine = Machine(ConcurrencyLimit(2, 16), always(16), always(2)).run(120)
    assert machine.law.limit == 2


def test_a_place_that_was_lost_is_given_back_before_somebody_waits_for_it():
    """A machine that was busy while one session ran serves the next ones at once when it is not any more."""
    machine = Machine(
        ConcurrencyLimit(4, 4), lambda t: 4, lambda t: 1 if t < 90 else 4, stalls=((20, 26),)
    ).run(120)
    limits = {when: running for when, running, _ in machine.history}
    assert limits[90.5] == 4  # as soon as they come
    assert machine.late_share(30, 120) == 0


@pytest.mark.parametrize("begin_s", [20, 36])
def test_what_was_late_is_forgotten_while_nobody_runs(begin_s):
    """Also if the last session left a machine that was late."""
    machine = Machine(
        ConcurrencyLimit(4, 4),
        always(4),
        lambda t: 1 if t < 40 else 0 if t < 120 else 4,
        stalls=((begin_s, 40),),
    ).run(130)
    assert machine.law.limit == 4
    assert machine.at(120.5) == 4


def test_a_place_that_is_given_back_in_vain_is_a_failed_attempt():
    """Sessions that come and go on a machine that stays slower make those that run late ever more rarely."""
    machine = Machine(
        ConcurrencyLimit(2, 2),
        lambda t: 2 if t < 20 else 1,
        lambda t: 2 if t < 40 or t % 40 < 20 else 1,
    ).run(2400)
    assert machine.late_share(1200, 2400) < 0.02
    assert machine.late_share(1200, 2400) < machine.late_share(40, 400)


def test_recovery_stops_at_what_was_measured():
    """Beyond it, the limit grows only for somebody who waits."""
    machine = Machine(
        ConcurrencyLimit(2, 16), always(16), lambda t: 1 if t < 90 else 2, stalls=((20, 26),)
    ).run(200)
    assert machine.law.limit == 2


def test_no_frames_are_no_evidence():
    """Silence after lateness neither reduces nor restores anything."""
    law = ConcurrencyLimit(4, 4)
    late = Observation(frames=50, late=50, tight=50, cost_s=1, busy=0, running=4, waiting=0)
    silent = Observation(frames=0, late=0, tight=0, cost_s=0, busy=0, running=4, waiting=0)
    for second in range(3):
        law.observe(late, second)
    limits = {law.observe(silent, 3 + second) for second in range(60)}
    assert limits == {law.limit}
    assert law.is_late


@given(
    initial=st.integers(1, 32),
    maximum=st.integers(1, 16),
    seen=st.lists(
        st.builds(
            Observation,
            frames=st.just(100),
            late=st.integers(0, 100),
            tight=st.integers(0, 100),
            cost_s=st.floats(0.001, 1),
            busy=st.floats(0, 1),
            running=st.integers(0, 16),
            waiting=st.integers(0, 8),
        ),
        max_size=200,
    ),
)
def test_the_limit_stays_in_bounds_and_moves_by_one(initial, maximum, seen):
    """Whatever is observed: from 1 to `maximum`, up by at most one; down to what runs, or by one."""
    law = ConcurrencyLimit(initial, maximum)
    before, now_s, grown_s = law.limit, 0.0, -GROW_AFTER_S
    for each in seen:
        now_s += OBSERVE_EVERY_S
        limit = law.observe(each, now_s)
        assert 1 <= limit <= maximum
        assert limit <= before + 1
        assert limit >= min(before, max(1, min(before, each.running) - 1))
        if limit > before:
            assert now_s - grown_s >= GROW_AFTER_S
            grown_s = now_s
        before = limit
