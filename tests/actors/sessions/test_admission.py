"""Admission: a lane has one holder, always comes back, and the queue is in order."""

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.runtime.channel import Channel
from actors.sessions.admission import Admission, LaneLease
from pipeline.errors import SessionRefusedError
from pipeline.values import LaneClosed, LaneOpened, SamplingParams, UserFrame

SAMPLING = SamplingParams()


def make(*, lanes: int, queue: int) -> tuple[Admission, Channel[UserFrame]]:
    inbox: Channel[UserFrame] = Channel("inbox", lanes * 18, lane_frames=8)
    admission = Admission(inbox, lanes=lanes, queue=queue)
    admission.open()
    return admission, inbox


def refusal(admission: Admission) -> SessionRefusedError:
    with pytest.raises(SessionRefusedError) as caught:
        admission.request()
    return caught.value


def test_a_refusal_has_a_code_and_a_retry_time():
    """For not ready, full and draining; draining is final."""
    admission = Admission(Channel("inbox", 18, lane_frames=8), lanes=1, queue=0)
    assert refusal(admission).code == "not_ready"
    admission.open()
    with admission.request():
        full = refusal(admission)
        assert full.code == "full"
        assert full.retry_after_ms > 0
    admission.drain()
    admission.open()
    assert refusal(admission).code == "draining"


async def test_an_opened_lane_is_free_once_its_closing_has_come_out():
    """Closing a lease puts an event behind the lane's frames; until it comes out the lane is in use."""
    admission, inbox = make(lanes=1, queue=0)
    with admission.request() as lease:
        assert lease.open_lane(SAMPLING) == 0
        assert lease.is_open
    assert not lease.is_open
    assert (await inbox.take_batch()).events == (LaneOpened(0, SAMPLING), LaneClosed(0))
    assert refusal(admission).code == "full"
    assert (admission.statistics().room, admission.statistics().room_soon) == (0, 1)
    admission.free(0)
    assert admission.request().lane == 0


def test_a_lane_that_was_never_opened_is_free_at_once():
    """A connection that is lost before its session begins leaves nothing behind."""
    admission, inbox = make(lanes=1, queue=0)
    with admission.request():
        pass
    assert admission.request().lane == 0
    assert inbox.statistics().sent == 0


async def test_lanes_are_free_once_the_engine_has_ended():
    """If no event can come out any more, the lane is not waited for."""
    admission, inbox = make(lanes=1, queue=0)
    lease = admission.request()
    lease.open_lane(SAMPLING)
    inbox.close()
    lease.close()
    assert admission.statistics().lanes_open == 0


async def test_the_queue_moves_up_in_order(autojump_clock):
    """Every change of position is notified; leaving the queue makes room; the first in it gets the lane."""
    admission, _ = make(lanes=1, queue=3)
    holder = admission.request()
    waiting = [admission.request() for _ in range(3)]
    assert [t.position for t in waiting] == [1, 2, 3]
    seen: list[list[int]] = [[], [], []]

    async def watch(lease: LaneLease, positions: list[int]) -> None:
        while lease.lane is None:
            await lease.wait_changed()
            positions.append(lease.position)

    async with trio.open_nursery() as nursery:
        for lease, positions in zip(waiting, seen, strict=True):
            nursery.start_soon(watch, lease, positions)
        await trio.testing.wait_all_tasks_blocked()
        waiting[1].close()
        await trio.testing.wait_all_tasks_blocked()
        assert [t.position for t in waiting] == [1, 0, 2]
        holder.close()
        await trio.testing.wait_all_tasks_blocked()
        assert (waiting[0].lane, waiting[2].position) == (0, 1)
        waiting[0].close()
        await trio.testing.wait_all_tasks_blocked()
        assert waiting[2].lane == 0
        nursery.cancel_scope.cancel()  # the one that left the queue is never moved again
    assert seen[2] == [2, 1, 0]
    assert seen[1] == []


async def test_whoever_comes_and_goes_is_no_news_for_those_ahead():
    """A client that joins the queue and leaves it all the time causes no message to anybody."""
    admission, _ = make(lanes=1, queue=3)
    admission.request()
    waiting = [admission.request() for _ in range(2)]
    news = []

    async def watch(lease: LaneLease) -> None:
        while True:
            await lease.wait_changed()
            news.append(lease.position)

    async with trio.open_nursery() as nursery:
        for lease in waiting:
            nursery.start_soon(watch, lease)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            admission.request().close()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert news == []


def test_the_newest_session_is_put_back_with_its_lane():
    """It waits ahead of those that have never run, and gets its own lane again."""
    admission, _ = make(lanes=3, queue=2)
    leases = [admission.request() for _ in range(4)]
    assert [t.lane for t in leases] == [0, 1, 2, None]
    admission.set_limit(1)
    assert [t.running for t in leases] == [True, False, False, False]
    assert [t.position for t in leases] == [0, 1, 2, 3]
    assert [t.lane for t in leases] == [0, 1, 2, None]
    statistics = admission.statistics()
    assert (statistics.running, statistics.put_back, statistics.put_back_total) == (1, 2, 2)
    assert statistics.room == 0
    assert statistics.queue_room == 1
    leases[0].close()
    assert [t.running for t in leases[1:]] == [True, False, False]
    admission.set_limit(3)
    assert [t.running for t in leases[1:]] == [True, True, True]
    assert leases[3].lane == 0


def test_who_sends_more_than_real_time_is_put_back_first():
    """However long it has been there: it makes the models busier than those that are newer."""
    admission, _ = make(lanes=3, queue=2)
    leases = [admission.request() for _ in range(3)]
    leases[0].is_ahead = lambda: True
    admission.set_limit(2)
    assert [t.running for t in leases] == [False, True, True]
    admission.set_limit(1)
    assert [t.running for t in leases] == [False, True, False]


def test_a_session_that_is_put_back_may_leave():
    """Its lane is free for the next one."""
    admission, _ = make(lanes=2, queue=2)
    leases = [admission.request() for _ in range(2)]
    admission.set_limit(1)
    leases[1].close()
    assert admission.statistics().lanes_open == 1
    assert admission.request().position == 1


class Arrivals(RuleBasedStateMachine):
    """Sessions come and go in every way; the lanes are conserved."""

    LANES = 3
    QUEUE = 2

    def __init__(self) -> None:
        super().__init__()
        self.admission, self.inbox = make(lanes=self.LANES, queue=self.QUEUE)
        self.leases: list[LaneLease] = []
        self.in_engine: list[int] = []  # closed, and not yet out

    @rule()
    def request(self) -> None:
        try:
            self.leases.append(self.admission.request())
        except SessionRefusedError:
            statistics = self.admission.statistics()
            assert not statistics.room
            assert sum(t.lane is None for t in self.leases) == self.QUEUE

    @rule(limit=st.integers(1, LANES))
    def limit(self, limit: int) -> None:
        running = [t for t in self.leases if t.running]
        self.admission.set_limit(limit)
        put_back = [t for t in running if not t.running]
        assert put_back == running[len(running) - len(put_back) :], "not the newest"
        assert [t.position for t in put_back] == list(range(1, len(put_back) + 1))

    @precondition(lambda self: any(t.lane is not None and not t.is_open for t in self.leases))
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([t for t in self.leases if t.lane is not None and not t.is_open]))
        lease.open_lane(SAMPLING)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        if lease.is_open:
            assert lease.lane is not None
            self.in_engine.append(lease.lane)
        lease.close()
        lease.close()
        self.leases.remove(lease)

    @precondition(lambda self: self.in_engine)
    @rule()
    def come_out(self) -> None:
        self.admission.free(self.in_engine.pop(0))

    def free(self) -> int:
        statistics = self.admission.statistics()
        return statistics.lanes_max - statistics.lanes_open

    @invariant()
    def every_lane_is_somewhere_once(self) -> None:
        held = [t.lane for t in self.leases if t.lane is not None]
        assert len(set(held + self.in_engine)) == len(held + self.in_engine)
        assert self.free() + len(held) + len(self.in_engine) == self.LANES

    @invariant()
    def no_session_queues_beside_a_free_lane(self) -> None:
        waiting = [t for t in self.leases if not t.running]
        assert sorted(t.position for t in waiting) == list(range(1, len(waiting) + 1))
        statistics = self.admission.statistics()
        assert sum(t.running for t in self.leases) <= statistics.limit
        first = next((t for t in waiting if t.position == 1), None)
        if first is not None and statistics.running < statistics.limit:
            assert first.lane is None
            assert not self.free()


def test_lanes_are_conserved() -> None:
    """Each lane is free, held, or being closed, at any time; no session waits while one is free."""

    async def check() -> None:
        await trio.lowlevel.checkpoint()
        run_state_machine_as_test(Arrivals, settings=settings(max_examples=50, stateful_step_count=25))

    trio.run(check)
