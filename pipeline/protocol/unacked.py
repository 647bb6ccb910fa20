"""Packets that want an ACK survive a broken connection, and none is delivered twice.

Packets that want an ACK are numbered over the whole session, whatever connection carries
them: the first has id 0, the next 1. The id is not part of the packet. Both ends count, and
when a session is resumed, `resumed` gives the ids of the packets that follow.

`UnackedPackets` is the sender's half and `ReceivedIds` the receiver's. Each belongs to a
session, and is passed from one `Conversation` to the next.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.faults import LocalProtocolError
from pipeline.protocol.outgoing import OutgoingPacket

UNACKED_PACKETS_MAX: Final = 1024  # about an hour of utterances, should a client never ACK


class UnackedPackets:
    """Packets that want an ACK and have none yet, by id; at most `limit`."""

    def __init__(self, limit: int = UNACKED_PACKETS_MAX) -> None:
        self._limit = limit
        self._packets: dict[int, OutgoingPacket] = {}
        self.next_id = 0

    def add(self, packet: OutgoingPacket) -> int:
        """Keep a packet until it is ACKed, and give its id; a packet that has an id is kept already.

        Raises:
            LocalProtocolError: `limit` packets were never ACKed.
        """
        if packet.id is not None:
            return packet.id
        if len(self._packets) >= self._limit:
            raise LocalProtocolError(
                f"{self._limit} packets were never acknowledged", CloseReason.TRY_AGAIN_LATER
            )
        packet_id = self.next_id
        self._packets[packet_id] = replace(packet, id=packet_id)
        self.next_id += 1
        return packet_id

    def remove(self, packet_id: int) -> OutgoingPacket | None:
        """The packet was ACKed; None where it had been removed before."""
        return self._packets.pop(packet_id, None)

    @property
    def packets(self) -> tuple[OutgoingPacket, ...]:
        """All packets without an ACK, oldest first; each has its id."""
        return tuple(self._packets.values())


class ReceivedIds:
    """Which ids have arrived. On one connection ids only grow, so the last one is enough to know."""

    def __init__(self) -> None:
        self._expected: deque[int] = deque()  # of the packets that are sent again
        self._next_id = 0
        self._last = -1

    def resume(self, unacked: Sequence[int], next_id: int) -> None:
        """The next packets have the ids `unacked`, and those after them count on from `next_id`."""
        self._expected = deque(unacked)
        self._next_id = next_id

    def reset(self) -> None:
        """A new session begins: its ids count from 0."""
        self._expected.clear()
        self._next_id, self._last = 0, -1

    def record(self) -> bool:
        """Count a packet that wants an ACK; whether it is new, and not a repetition."""
        if self._expected:
            packet_id = self._expected.popleft()
        else:
            packet_id = self._next_id
            self._next_id += 1
        is_new = packet_id > self._last
        self._last = max(self._last, packet_id)
        return is_new
