"""A lane belongs to one ticket at a time, and comes back whatever becomes of its holder.

Whether there is room is decided at once, before a connection is upgraded: a free lane, a
place in the queue, or a refusal. A ticket is a context manager, and leaving it is all that
its holder owes: a place in the queue is given up, a lane that was never opened is free, and
one that was opened is closed by an event behind its last frame. It is free again when that
event has come out of the last stage, because until then its rows are in use.

Neighbours: `delivery` reports which lanes came out, `session` holds the ticket.
"""

import heapq
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import trio

from actors.runtime.channel import Channel
from pipeline.errors import BrokenInvariantError, RefusalCode, RefusedError
from pipeline.values import LaneClosed, LaneEvent, LaneOpened, Sampling, UserFrame

# When it is worth asking again: models load in seconds, sessions last minutes, and a server
# that drains is started again by whoever stopped it.
RETRY_AFTER_MS: Final[dict[RefusalCode, int]] = {"not_ready": 1_000, "full": 5_000, "draining": 5_000}
_REASONS: Final[dict[RefusalCode, str]] = {
    "not_ready": "the models are still loading",
    "full": "every lane and every place in the queue is taken",
    "draining": "the server is shutting down",
}


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """`lanes_open` are in use or on their way back; `queued` wait for one, `queue_max` may."""

    lanes_max: int
    lanes_open: int
    queued: int
    queue_max: int


class Ticket:
    """One session's claim on a lane: first perhaps a place in the queue, then `lane`."""

    def __init__(self, admission: "Admission", lane: int | None) -> None:
        self._admission = admission
        self._moved = trio.Event()
        self._opened = False
        self._closed = False
        self.lane = lane

    @property
    def position(self) -> int:
        """1 is the next to get a lane; 0 is not in the queue."""
        return self._admission.position(self)

    async def moved(self) -> None:
        """Wait until the position changes, or becomes a lane."""
        await self._moved.wait()

    def open_lane(self, sampling: Sampling) -> int:
        """Reset the lane's rows, ahead of its first frame; give the lane.

        Raises:
            trio.ClosedResourceError: the line has ended.
        """
        assert self.lane is not None, "a queued ticket has no lane to open"
        self._admission.send(LaneOpened(self.lane, sampling))
        self._opened = True
        return self.lane

    @property
    def is_open(self) -> bool:
        """Whether the lane was opened, and its end has not been announced yet."""
        return self._opened and not self._closed

    def close(self) -> None:
        """Give up whatever is held; a second time nothing is."""
        if not self._closed:
            self._closed = True
            self._admission.give_up(self, opened=self._opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def move(self, lane: int | None = None) -> None:
        """For the admission: the position changed, or became a lane."""
        self.lane = lane
        moved, self._moved = self._moved, trio.Event()
        moved.set()


class Admission:
    """`lanes` sessions at once, `queue` more waiting in order, everyone else refused."""

    def __init__(self, inbox: Channel[UserFrame], *, lanes: int, queue: int) -> None:
        self._inbox = inbox
        self._lanes_max = lanes
        self._queue_max = queue
        self._free = list(range(lanes))  # a heap: the lowest lane first, so that tests can name it
        self._waiting: deque[Ticket] = deque()
        self._closed_for: RefusalCode | None = "not_ready"

    @property
    def closed_for(self) -> RefusalCode | None:
        """Why nobody is admitted, however many lanes are free; None while the doors are open."""
        return self._closed_for

    def open(self) -> None:
        """The models are ready."""
        if self._closed_for == "not_ready":
            self._closed_for = None

    def drain(self) -> None:
        """Admit nobody any more, for good."""
        self._closed_for = "draining"

    def check_open(self) -> None:
        """Nothing, while the doors are open.

        Raises:
            RefusedError: the models are not ready, or the server drains.
        """
        if self._closed_for is not None:
            raise _refusal(self._closed_for)

    def request(self, *, may_wait: bool = True) -> Ticket:
        """A ticket, with a lane or, if it `may_wait`, with a place in the queue.

        Raises:
            RefusedError: the models are not ready, the server drains, or there is no room.
        """
        self.check_open()
        if self._free:
            return Ticket(self, heapq.heappop(self._free))
        if not may_wait:
            raise RefusedError("full", "every lane is taken", RETRY_AFTER_MS["full"])
        if len(self._waiting) >= self._queue_max:
            raise _refusal("full")
        ticket = Ticket(self, None)
        self._waiting.append(ticket)
        return ticket

    def release(self, lane: int) -> None:
        """The lane's rows are in nobody's use: the first in the queue gets it, or it is free."""
        if self._waiting:
            self._waiting.popleft().move(lane)
            self._move_up()
        else:
            heapq.heappush(self._free, lane)

    def position(self, ticket: Ticket) -> int:
        """The place of a ticket in the queue, from 1; 0 where it does not stand in it."""
        return self._waiting.index(ticket) + 1 if ticket in self._waiting else 0

    def send(self, event: LaneEvent) -> None:
        """Put a lane event behind what the lane already has in the line."""
        try:
            self._inbox.put_nowait(event)
        except trio.WouldBlock:
            raise BrokenInvariantError("the line has no room left for the events of its own lanes") from None

    def give_up(self, ticket: Ticket, *, opened: bool) -> None:
        """Take back what a ticket held."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._move_up()
        elif ticket.lane is not None:
            try:
                if opened:
                    self.send(LaneClosed(ticket.lane))
                    return
            except trio.ClosedResourceError:
                pass  # the line has ended: nothing will come out of it
            self.release(ticket.lane)

    def statistics(self) -> AdmissionStatistics:
        """The lanes and the queue now."""
        open_lanes = self._lanes_max - len(self._free)
        return AdmissionStatistics(self._lanes_max, open_lanes, len(self._waiting), self._queue_max)

    def _move_up(self) -> None:
        for ticket in self._waiting:
            ticket.move()


def _refusal(code: RefusalCode) -> RefusedError:
    return RefusedError(code, _REASONS[code], RETRY_AFTER_MS[code])
