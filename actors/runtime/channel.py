"""A bounded channel of frames and lane events that accounts for every item: sent = taken + leaked + depth.

Every channel between two stages is one of these: named, bounded in total and per lane, with a
declared policy for a lane whose share is full. A lane's items never overtake each other, and an
event never leaks.

Learned from trio's memory channels (sync calls never block, async ones always check in,
cancellation leaves the channel unchanged) and GStreamer's `queue` (named, leaky by
declaration, limited in time as well as items).
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

import trio

from pipeline.values import Frame, LaneEvent

F = TypeVar("F", bound=Frame)


class Leak(Enum):
    """What happens to a frame whose lane has no room left."""

    NEVER = "never"  # it waits
    OLDEST = "oldest"  # the lane's oldest waiting frame makes room for it


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A channel or send queue at one moment. `sent = taken + leaked + depth`, always."""

    name: str
    leak: Leak
    capacity: int
    depth: int
    peak: int
    sent: int
    taken: int
    leaked: int


class Entry(NamedTuple, Generic[F]):
    """An item, and when it was offered; a put that has to wait offers its item before it is in."""

    item: F | LaneEvent
    offered_s: float


@dataclass(eq=False, slots=True)
class _Putter(Generic[F]):
    """A task that waits for room; woken when its entry is in, or when the channel is closed."""

    entry: Entry[F]
    admitted: bool = False
    woken: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class Batch(Generic[F]):
    """What a stage does next: `events`, in order, then `frames`, at most one per lane.

    `offered_s[i]` is when `frames[i]` was put into the channel.
    """

    events: tuple[LaneEvent, ...]
    frames: tuple[F, ...]
    offered_s: tuple[float, ...]


class Channel(Generic[F]):
    """Frames and lane events on their way to one stage.

    Args:
        name: its name in the statistics.
        capacity: items it holds at most, events included.
        lane_frames: frames of one lane it holds at most; beyond them, `leak` decides.
        leak: what happens when a lane has that many frames. Events always wait.
        max_lag_s: a frame that was received longer ago than this leaks as long as a newer one of its
            lane waits behind it, so that an overloaded lane skips frames instead of falling behind.
        on_leak: called with each frame that leaks.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        lane_frames: int,
        leak: Leak = Leak.NEVER,
        max_lag_s: float = math.inf,
        on_leak: Callable[[F], None] | None = None,
    ) -> None:
        self._name = name
        self._capacity = capacity
        self._lane_frames = lane_frames
        self._leak = leak
        self._max_lag_s = max_lag_s
        self._on_leak = on_leak
        self._waiting: deque[Entry[F]] = deque()
        self._frames: Counter[int] = Counter()  # per lane, of what waits
        self._events: Counter[int] = Counter()
        self._putters: deque[_Putter[F]] = deque()
        self._takers = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()
        self._closed = False
        self._peak = self._sent = self._taken = self._leaked = 0

    def put_nowait(self, item: F | LaneEvent) -> None:
        """Add an item now, leaking the lane's oldest frame if that is the policy.

        Raises:
            trio.WouldBlock: there is no room, and nothing that may leak.
            trio.ClosedResourceError: the channel is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError
        if self._putters or not self._has_room(item):
            raise trio.WouldBlock
        self._add(Entry(item, trio.current_time()))

    async def put(self, item: F | LaneEvent) -> None:
        """Add an item, first come first served; cancelled, it was never added.

        Raises:
            trio.ClosedResourceError: the channel is closed, or was while this waited.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.put_nowait(item)
        except trio.WouldBlock:
            pass
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        putter = _Putter(Entry(item, trio.current_time()))
        self._putters.append(putter)
        try:
            await putter.woken.wait()
        except trio.Cancelled:
            self._putters.remove(putter)
            self._admit_putters()  # those behind it may have room
            raise
        if not putter.admitted:
            raise trio.ClosedResourceError

    async def put_all(self, items: Iterable[F | LaneEvent]) -> None:
        """Add items together: the task that takes them sees all of them that there is room for.

        Raises:
            trio.ClosedResourceError: the channel is closed, or was while this waited.
        """
        for item in items:
            try:
                self.put_nowait(item)
            except trio.WouldBlock:
                await self.put(item)
        await trio.lowlevel.checkpoint()

    async def take_batch(self) -> Batch[F]:
        """Wait until something is there, then take all that can be processed at once.

        That is, for each lane, its events up to its first frame, and that frame. Frames come in
        the order in which they were received. It never waits for more than there is.

        Raises:
            trio.EndOfChannel: the channel is closed and empty.
        """
        await self.wait_waiting()
        return self.take_batch_nowait()

    def take_batch_nowait(self) -> Batch[F]:
        """Take now what `take_batch` would, which may be nothing."""
        batch = self._choose(trio.current_time())
        self._admit_putters()
        if not self._waiting:
            self._emptied.unpark_all()
        return batch

    async def wait_waiting(self) -> None:
        """Wait until something is there.

        Raises:
            trio.EndOfChannel: the channel is closed and empty.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._waiting:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not self._waiting:
            if self._closed:
                raise trio.EndOfChannel
            await self._takers.park()

    async def wait_empty(self) -> None:
        """Wait until all that was put has been taken, or the channel is closed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiting or self._closed:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while self._waiting and not self._closed:
            await self._emptied.park()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def waiting_events(self, lane: int) -> int:
        """Events of one lane that wait, for the caller to bound them."""
        return self._events[lane]

    def statistics(self) -> QueueStatistics:
        """The counters now."""
        return QueueStatistics(
            name=self._name,
            leak=self._leak,
            capacity=self._capacity,
            depth=len(self._waiting),
            peak=self._peak,
            sent=self._sent,
            taken=self._taken,
            leaked=self._leaked,
        )

    def close(self) -> None:
        """Accept no more items; those that wait can still be taken. Closing twice does nothing."""
        self._closed = True
        while self._putters:
            self._putters.popleft().woken.set()
        self._takers.unpark_all()
        self._emptied.unpark_all()

    def _has_room(self, item: F | LaneEvent) -> bool:
        if isinstance(item, Frame) and self._frames[item.lane] >= self._lane_frames:
            return self._leak is Leak.OLDEST  # one out, one in: the total stays
        return len(self._waiting) < self._capacity

    def _add(self, entry: Entry[F]) -> None:
        lane = entry.item.lane
        if isinstance(entry.item, Frame):
            if self._frames[lane] >= self._lane_frames:
                self._leak_oldest(lane)
            self._frames[lane] += 1
        else:
            self._events[lane] += 1
        self._waiting.append(entry)
        self._sent += 1
        self._peak = max(self._peak, len(self._waiting))
        self._takers.unpark()

    def _leak_oldest(self, lane: int) -> None:
        for position, (item, _) in enumerate(self._waiting):
            if item.lane == lane and isinstance(item, Frame):
                del self._waiting[position]
                self._leak_one(item)
                break

    def _leak_one(self, frame: F) -> None:
        self._frames[frame.lane] -= 1
        self._leaked += 1
        if self._on_leak is not None:
            self._on_leak(frame)

    def _choose(self, now_s: float) -> Batch[F]:
        events: list[LaneEvent] = []
        frames: list[tuple[F, float]] = []
        served: set[int] = set()  # lanes that have their frame
        left: deque[Entry[F]] = deque()
        for entry in self._waiting:
            item, offered_s = entry
            if item.lane in served:
                left.append(entry)
            elif not isinstance(item, Frame):
                self._events[item.lane] -= 1
                events.append(item)
            elif now_s - item.header.received_s > self._max_lag_s and self._frames[item.lane] > 1:
                self._leak_one(item)
            else:
                self._frames[item.lane] -= 1
                served.add(item.lane)
                frames.append((item, offered_s))
        self._waiting = left
        self._taken += len(events) + len(frames)
        frames.sort(key=lambda taken: taken[0].header.received_s)
        return Batch(tuple(events), tuple(f for f, _ in frames), tuple(at for _, at in frames))

    def _admit_putters(self) -> None:
        while self._putters and self._has_room(self._putters[0].entry.item):
            putter = self._putters.popleft()
            self._add(putter.entry)
            putter.admitted = True
            putter.woken.set()
