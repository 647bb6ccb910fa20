"""The packets that wait to be written to one client: bounded, by priority, and put in without waiting.

The dispatcher puts packets in without waiting, so that a slow reader does not hold up the other
sessions; egress takes them out, urgent packets first. Under pressure packets are dropped, and
counted, in this order: LOW packets, the partial text, the oldest audio. Final text, ACKs and
control are never dropped: if there is no room for them, the queue fails, and with it the connection.

Two kinds are dropped even where there is room: audio that has waited longer than `max_lag_s`, and
a partial text that is superseded by a newer one or by its final.
"""

from collections import Counter, deque
from typing import Final, Literal, NamedTuple

import trio

from actors.runtime.channel import Leak, QueueStatistics
from pipeline.errors import PeerError
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType, Priority
from pipeline.values import AgentFrame

CAPACITY_PACKETS: Final = 64

DroppedKind = Literal["low", "partial", "audio", "superseded", "obsolete"]


class SendQueueFullError(PeerError):
    """The peer reads so slowly that packets that must not be dropped have no room."""


class QueuedPacket(NamedTuple):
    """A packet that has been waiting since `queued_s`; for audio, with the frame in it."""

    packet: OutgoingPacket
    frame: AgentFrame | None
    queued_s: float


class SendQueue:
    """What waits to be written to one client. `dropped` counts by kind what was dropped."""

    def __init__(self, *, max_lag_s: float, capacity: int = CAPACITY_PACKETS) -> None:
        self.dropped: Counter[DroppedKind] = Counter()
        self._max_lag_s = max_lag_s
        self._capacity = capacity
        self._queues: dict[Priority, deque[QueuedPacket]] = {p: deque() for p in sorted(Priority)}
        self._takers = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()  # of those who wait for it
        self._closed = False
        self._failure: Exception | None = None
        self._peak = self._sent = self._taken = 0

    def put(self, packet: OutgoingPacket, frame: AgentFrame | None = None) -> None:
        """Add a packet; after `close` or `fail` it is discarded, since nothing will be written."""
        if self._closed:
            return
        now_s = trio.current_time()
        self._sent += 1
        if packet.type in (PacketType.TEXT_PARTIAL, PacketType.TEXT_FINAL):
            self._drop_oldest(Priority.NORMAL, "superseded")
        if packet.type == PacketType.AUDIO_CHUNK:
            self._drop_late_audio(now_s)
        if self._depth() >= self._capacity and not self._make_room_for(packet):
            return
        self._queues[packet.priority].append(QueuedPacket(packet, frame, now_s))
        self._peak = max(self._peak, self._depth())
        self._takers.unpark()

    async def wait_room(self) -> None:
        """Wait while many packets that must not be dropped wait already; a checkpoint only then.

        What a client sends may cause replies faster than they can be written. It is read more slowly then;
        one that does not read them is found by the deadline of the write.
        """
        while len(self._queues[Priority.HIGH]) > self._capacity // 2 and not self._closed:
            await self._room.park()

    async def take(self) -> QueuedPacket:
        """Wait for the most urgent packet, the oldest of its priority.

        Raises:
            trio.EndOfChannel: the queue is closed and empty.
            Exception: the queue has failed with it; packets that still wait are not returned.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            for queue in self._queues.values():
                if queue:
                    self._taken += 1
                    self._room.unpark_all()
                    return queue.popleft()
            if self._closed:
                raise trio.EndOfChannel
            await self._takers.park()

    def close(self) -> None:
        """Accept no more packets; those that wait can still be taken."""
        self._closed = True
        self._takers.unpark_all()
        self._room.unpark_all()

    def fail(self, failure: Exception) -> None:
        """Accept no more packets, and raise `failure` where they are taken. The first failure is kept."""
        self._failure = self._failure or failure
        self.close()

    def abandon(self) -> list[OutgoingPacket]:
        """The connection is gone: return the packets that want an ACK, drop the others."""
        self.close()
        saved = [q.packet for queue in self._queues.values() for q in queue if q.packet.wants_ack]
        self._taken += len(saved)
        kinds: dict[Priority, DroppedKind] = {Priority.CRITICAL: "audio", Priority.NORMAL: "partial"}
        for priority, queue in self._queues.items():
            waiting = sum(not queued.packet.wants_ack for queued in queue)
            self.dropped[kinds.get(priority, "obsolete")] += waiting
            queue.clear()
        return saved

    def statistics(self) -> QueueStatistics:
        """The counters now; `leaked` is the sum of `dropped`."""
        return QueueStatistics(
            name="send_queue",
            leak=Leak.OLDEST,
            capacity=self._capacity,
            depth=self._depth(),
            peak=self._peak,
            sent=self._sent,
            taken=self._taken,
            leaked=self.dropped.total(),
        )

    def _depth(self) -> int:
        return sum(map(len, self._queues.values()))

    def _make_room_for(self, packet: OutgoingPacket) -> bool:
        """Drop what matters least; False if that is the new packet itself, or nothing may be dropped."""
        if self._drop_oldest(Priority.LOW, "low"):
            return True
        if packet.priority == Priority.LOW:
            self.dropped["low"] += 1
            return False
        if self._drop_oldest(Priority.NORMAL, "partial"):
            return True
        if packet.priority == Priority.NORMAL:
            self.dropped["partial"] += 1
            return False
        if self._drop_oldest(Priority.CRITICAL, "audio"):
            return True
        self._sent -= 1
        self.fail(SendQueueFullError(f"{self._capacity} packets wait for a peer that does not read"))
        return False

    def _drop_oldest(self, priority: Priority, kind: DroppedKind) -> bool:
        """Drop the oldest packet of a priority; False where none waits."""
        queue = self._queues[priority]
        if not queue:
            return False
        queue.popleft()
        self.dropped[kind] += 1
        return True

    def _drop_late_audio(self, now_s: float) -> None:
        audio = self._queues[Priority.CRITICAL]
        while audio and now_s - audio[0].queued_s > self._max_lag_s:
            self._drop_oldest(Priority.CRITICAL, "audio")
