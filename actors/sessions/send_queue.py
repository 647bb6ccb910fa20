"""An outbox never blocks who fills it, never grows beyond its bound, and leaves out the least first.

The line delivers into it without waiting, so that one slow reader never stalls the others;
egress empties it, urgent packets first. Under pressure gives way, in this order and each
counted: LOW packets, the partial text, the oldest audio. Final text, ACKs and control are
never left out: where they cannot be held, the outbox fails, and with it the connection.

Two things are left out without a full outbox, because sending them would be worse: audio that
has waited longer than `max_lag_s`, and a partial text superseded by a newer one or its final.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import trio

from pipeline.errors import PeerError
from pipeline.protocol.outgoing import Outgoing
from pipeline.protocol.packets import PacketType, Priority
from pipeline.values import AgentFrame

CAPACITY_PACKETS: Final = 64

LeakedWhat = Literal["low", "partial", "audio", "superseded", "moot"]


class OutboxFullError(PeerError):
    """The peer reads so slowly that what must not be left out has no room."""


class Posted(NamedTuple):
    """A packet to be; for audio, the frame it carries. `posted_s` is when it was put."""

    said: Outgoing
    frame: AgentFrame | None
    posted_s: float


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """An outbox at one moment. `sent = taken + leaked + depth`, always; `leaked` is the sum of `left_out`."""

    capacity: int
    depth: int
    peak: int
    sent: int
    taken: int
    leaked: int
    left_out: dict[LeakedWhat, int]


class Outbox:
    """What waits to be written to one client, by priority."""

    def __init__(self, *, max_lag_s: float, capacity: int = CAPACITY_PACKETS) -> None:
        self._max_lag_s = max_lag_s
        self._capacity = capacity
        self._queues: dict[Priority, deque[Posted]] = {priority: deque() for priority in sorted(Priority)}
        self._takers = trio.lowlevel.ParkingLot()
        self._closed = False
        self._failure: Exception | None = None
        self._peak = self._sent = self._taken = 0
        self._left_out: Counter[LeakedWhat] = Counter()

    def put(self, said: Outgoing, frame: AgentFrame | None = None) -> None:
        """Post one packet; after `close` or `fail` it is not kept, since nothing will be written."""
        if self._closed:
            return
        now_s = trio.current_time()
        self._sent += 1
        if said.type in (PacketType.TEXT_PARTIAL, PacketType.TEXT_FINAL):
            self._leave_out(Priority.NORMAL, "superseded")
        if said.type == PacketType.AUDIO_CHUNK:
            self._leave_out_late(now_s)
        if self._depth() >= self._capacity and not self._make_room_for(said):
            return
        self._queues[said.priority].append(Posted(said, frame, now_s))
        self._peak = max(self._peak, self._depth())
        self._takers.unpark()

    async def take(self) -> Posted:
        """The most urgent packet, the oldest of its priority.

        Raises:
            trio.EndOfChannel: the outbox is closed and empty.
            Exception: what it failed with, ahead of everything that waits.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            for queue in self._queues.values():
                if queue:
                    self._taken += 1
                    return queue.popleft()
            if self._closed:
                raise trio.EndOfChannel
            await self._takers.park()

    def close(self) -> None:
        """Nothing more is posted; what waits is still written."""
        self._closed = True
        self._takers.unpark_all()

    def fail(self, failure: Exception) -> None:
        """Nothing more is posted or written; whoever takes learns why. The first failure stays."""
        self._failure = self._failure or failure
        self.close()

    def abandon(self) -> list[Outgoing]:
        """The connection is gone: give what waits and wants an ACK, the rest is left out."""
        self.close()
        saved = [posted.said for queue in self._queues.values() for posted in queue if posted.said.wants_ack]
        self._taken += len(saved)
        kinds: dict[Priority, LeakedWhat] = {Priority.CRITICAL: "audio", Priority.NORMAL: "partial"}
        for priority, queue in self._queues.items():
            waiting = sum(not posted.said.wants_ack for posted in queue)
            self._left_out[kinds.get(priority, "moot")] += waiting
            queue.clear()
        return saved

    def left_out(self, what: LeakedWhat) -> int:
        """How many of a kind were left out."""
        return self._left_out[what]

    def statistics(self) -> OutboxStatistics:
        """The counters now."""
        return OutboxStatistics(
            capacity=self._capacity,
            depth=self._depth(),
            peak=self._peak,
            sent=self._sent,
            taken=self._taken,
            leaked=self._left_out.total(),
            left_out=dict(self._left_out),
        )

    def _depth(self) -> int:
        return sum(map(len, self._queues.values()))

    def _make_room_for(self, said: Outgoing) -> bool:
        """Leave out the least; if that is the new packet itself, it is not kept."""
        if self._leave_out(Priority.LOW, "low"):
            return True
        if said.priority == Priority.LOW:
            self._left_out["low"] += 1
            return False
        if self._leave_out(Priority.NORMAL, "partial"):
            return True
        if said.priority == Priority.NORMAL:
            self._left_out["partial"] += 1
            return False
        if self._leave_out(Priority.CRITICAL, "audio"):
            return True
        self._sent -= 1
        self.fail(OutboxFullError(f"{self._capacity} packets wait for a peer that does not read"))
        return False

    def _leave_out(self, priority: Priority, what: LeakedWhat) -> bool:
        """Leave out the oldest of a priority; False where none waits."""
        queue = self._queues[priority]
        if not queue:
            return False
        queue.popleft()
        self._left_out[what] += 1
        return True

    def _leave_out_late(self, now_s: float) -> None:
        audio = self._queues[Priority.CRITICAL]
        while audio and now_s - audio[0].posted_s > self._max_lag_s:
            self._leave_out(Priority.CRITICAL, "audio")
