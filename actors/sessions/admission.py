"""Admission: who runs, who waits, and who is refused.

At most `limit` sessions run at once, however many lanes there are; the limit follows how many the
machine can serve in time (`concurrency_limit`). A session that has to make room keeps its lane, with
all that the models remember of it, and waits at the head of the queue; none of its audio is processed
meanwhile.

It is decided at once, before a connection is upgraded: a free lane, a place in the queue, or a
refusal. The lease is a context manager, and its holder only has to leave it: then a place in the
queue is given up, a lane that was never opened is free, and one that was opened is closed by an
event after its last frame. That lane is free again when the event has come out of the last
stage, because until then its rows are in use.

Neighbours: `dispatcher` reports which lanes came out; `session` holds the lease.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import trio

from actors.runtime.channel import Channel
from pipeline.errors import BrokenInvariantError, RefusalCode, SessionRefusedError
from pipeline.values import LaneClosed, LaneEvent, LaneOpened, SamplingParams, UserFrame

# When a retry makes sense: models load in seconds, sessions last minutes, and a server that drains
# is started again by whoever stopped it.
RETRY_AFTER_MS: Final[dict[RefusalCode, int]] = {"not_ready": 1_000, "full": 5_000, "draining": 5_000}
_REASONS: Final[dict[RefusalCode, str]] = {
    "not_ready": "the models are still loading",
    "full": "every lane and every place in the queue is taken",
    "draining": "the server is shutting down",
}


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """The lanes and the queue at one moment.

    Attributes:
        lanes_max: lanes there are.
        lanes_open: lanes in use or being closed, those of sessions that were put back included.
        limit: sessions that may run at once.
        running: sessions that run, those that have ended but not come out of the last stage included.
        closing: of these, those that have ended.
        queued: sessions that wait, those that were put back included.
        put_back: sessions that ran before and wait with their lanes.
        queue_max: new sessions that may wait.
        put_back_total: how often a session was put back.
    """

    lanes_max: int
    lanes_open: int
    limit: int
    running: int
    closing: int
    queued: int
    put_back: int
    queue_max: int
    put_back_total: int

    @property
    def room(self) -> int:
        """New sessions that would run at once."""
        return self._room(leaving=0)

    @property
    def room_soon(self) -> int:
        """The same once the sessions that have ended are out of the last stage: milliseconds, usually."""
        return self._room(leaving=self.closing)

    def _room(self, leaving: int) -> int:
        if self.queued:
            return 0
        return max(0, min(self.limit - self.running, self.lanes_max - self.lanes_open) + leaving)

    @property
    def queue_room(self) -> int:
        """New sessions that could wait."""
        return max(0, self.queue_max - (self.queued - self.put_back))


class LaneLease:
    """One session's right to run: `lane` from the first time that it may, None before.

    `running` is false while it waits in the queue, for its first turn or, put back, for its next.

    Attributes:
        is_ahead: whether its client sends more than real time, which makes the models busier than it should.
    """

    def __init__(self, admission: "Admission", lane: int | None) -> None:
        self._admission = admission
        self._changed = trio.Event()
        self._opened = False
        self._closed = False
        self.lane = lane
        self.running = lane is not None
        self.is_ahead: Callable[[], bool] = lambda: False

    @property
    def position(self) -> int:
        """The place in the queue: 1 is the next to run, 0 is not in the queue."""
        return self._admission.position(self)

    async def wait_changed(self) -> None:
        """Wait until the position or `running` changes."""
        await self._changed.wait()

    def open_lane(self, sampling: SamplingParams) -> int:
        """Reset the lane's rows, ahead of its first frame; return the lane.

        Raises:
            trio.ClosedResourceError: the engine has ended.
        """
        assert self.lane is not None, "a queued session has no lane to open"
        self._admission.send(LaneOpened(self.lane, sampling))
        self._opened = True
        return self.lane

    @property
    def is_open(self) -> bool:
        """Whether the lane was opened and not closed yet."""
        return self._opened and not self._closed

    def close(self) -> None:
        """Give back the lane or the place in the queue; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._admission.end_lease(self, opened=self._opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def change(self) -> None:
        """For `Admission`: the position, the lane or `running` changed."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()


class Admission:
    """Lets `limit` sessions run at once and `queue` more wait in order, and refuses all others.

    The limit is at first the number of lanes.
    """

    def __init__(self, user_frames: Channel[UserFrame], *, lanes: int, queue: int) -> None:
        self._user_frames = user_frames
        self._lanes_max = lanes
        self._queue_max = queue
        self._limit = lanes
        self._free = list(range(lanes))  # a heap: the lowest lane first, so that tests can name it
        self._running: list[LaneLease] = []  # the newest last
        self._closing = 0  # lanes of sessions that have ended, until they come out of the last stage
        self._waiting: deque[LaneLease] = deque()  # those that were put back first
        self._put_back_total = 0
        self._closed_for: RefusalCode | None = "not_ready"

    @property
    def closed_for(self) -> RefusalCode | None:
        """Why every session is refused, however many lanes are free; None while sessions are admitted."""
        return self._closed_for

    def open(self) -> None:
        """The models are ready: admit sessions from now on, unless the server drains."""
        if self._closed_for == "not_ready":
            self._closed_for = None

    def drain(self) -> None:
        """Refuse every session from now on."""
        self._closed_for = "draining"

    def check_open(self) -> None:
        """Do nothing while sessions are admitted.

        Raises:
            SessionRefusedError: the models are not ready, or the server drains.
        """
        if self._closed_for is not None:
            raise _refusal(self._closed_for)

    def request(self, *, may_wait: bool = True) -> LaneLease:
        """A lease, with a lane or, if it `may_wait`, with a place in the queue.

        Raises:
            SessionRefusedError: the models are not ready, the server drains, or there is no room.
        """
        self.check_open()
        now = self.statistics()
        if now.room:
            lease = LaneLease(self, heapq.heappop(self._free))
            self._running.append(lease)
            return lease
        if not may_wait:
            raise SessionRefusedError("full", "every lane is taken", RETRY_AFTER_MS["full"])
        if not now.queue_room:
            raise _refusal("full")
        lease = LaneLease(self, None)
        self._waiting.append(lease)
        return lease

    def free(self, lane: int) -> None:
        """The lane's rows are not in use any more: it is free, and the next in the queue may run."""
        self._closing -= 1
        heapq.heappush(self._free, lane)
        self._run_next()

    def set_limit(self, limit: int) -> None:
        """Let so many run at once: the next in the queue, or back into it, the newest first.

        Before them those whose clients send more than real time: without these there may be room for all.

        A session that is put back is informed by a change of its lease.
        """
        self._limit = limit
        while len(self._running) > limit:
            newest_first = self._running[::-1]
            lease = next((each for each in newest_first if each.is_ahead()), newest_first[0])
            self._running.remove(lease)
            lease.running = False
            self._waiting.appendleft(lease)
            self._put_back_total += 1
            self._move_up()
        self._run_next()

    def position(self, lease: LaneLease) -> int:
        """The place of a lease in the queue, from 1; 0 where it is not in the queue."""
        return self._waiting.index(lease) + 1 if lease in self._waiting else 0

    def send(self, event: LaneEvent) -> None:
        """Put a lane event after what the lane already has in the channels."""
        try:
            self._user_frames.put_nowait(event)
        except trio.WouldBlock:
            raise BrokenInvariantError(
                "the first channel has no room left for the events of its own lanes"
            ) from None

    def end_lease(self, lease: LaneLease, *, opened: bool) -> None:
        """Take back what a lease held; a lane that was opened is closed after its last frame."""
        if lease in self._waiting:
            place = self._waiting.index(lease)
            del self._waiting[place]
            self._move_up(place)
        else:
            self._running.remove(lease)
        if lease.lane is not None:
            self._closing += 1
            try:
                if opened:
                    self.send(LaneClosed(lease.lane))
                    return
            except trio.ClosedResourceError:
                pass  # the engine has ended: nothing will come out of it
            self.free(lease.lane)

    def statistics(self) -> AdmissionStatistics:
        """The lanes and the queue now."""
        return AdmissionStatistics(
            lanes_max=self._lanes_max,
            lanes_open=self._lanes_max - len(self._free),
            limit=self._limit,
            running=len(self._running) + self._closing,
            closing=self._closing,
            queued=len(self._waiting),
            put_back=sum(lease.lane is not None for lease in self._waiting),
            queue_max=self._queue_max,
            put_back_total=self._put_back_total,
        )

    def _run_next(self) -> None:
        """Let sessions from the queue run, in order, as far as the limit and the lanes go."""
        moved = False
        while self._waiting and len(self._running) + self._closing < self._limit:
            lease = self._waiting[0]
            if lease.lane is None:
                if not self._free:
                    break
                lease.lane = heapq.heappop(self._free)
            self._waiting.popleft()
            self._running.append(lease)
            lease.running = moved = True
            lease.change()
        if moved:
            self._move_up()

    def _move_up(self, begin: int = 0) -> None:
        """Inform those behind a place; for those ahead of it, whoever comes and goes changes nothing."""
        for lease in itertools.islice(self._waiting, begin, None):
            lease.change()


def _refusal(code: RefusalCode) -> SessionRefusedError:
    return SessionRefusedError(code, _REASONS[code], RETRY_AFTER_MS[code])
