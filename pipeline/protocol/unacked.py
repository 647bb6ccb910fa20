"""What must not be lost outlives its connection, and nothing is heard twice.

Packets that want an ACK are numbered over the whole session, whatever connection carries
them: the first that is sent has id 0, the next 1. The id is nowhere in a packet. Both ends
count, and when a session is taken up again, `resumed` names the ids of what follows.

`Kept` is the sender's half and `Heard` the receiver's; each belongs to a session, and goes
with it from one `Conversation` to the next.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipeline.protocol.close_reason import Farewell
from pipeline.protocol.faults import LocalProtocolError
from pipeline.protocol.outgoing import Outgoing

UNACKED_PACKETS: Final = 1024  # about an hour of utterances, should a client never ACK


class Kept:
    """Packets that want an ACK and have none yet, by id; at most `limit`."""

    def __init__(self, limit: int = UNACKED_PACKETS) -> None:
        self._limit = limit
        self._packets: dict[int, Outgoing] = {}
        self.next_id = 0

    def enter(self, said: Outgoing) -> int:
        """Keep a packet, and give its id; one that has an id already is kept.

        Raises:
            LocalProtocolError: too much was never ACKed.
        """
        if said.id is not None:
            return said.id
        if len(self._packets) >= self._limit:
            raise LocalProtocolError(
                f"{self._limit} packets were never acknowledged", Farewell.TRY_AGAIN_LATER
            )
        number = self.next_id
        self._packets[number] = replace(said, id=number)
        self.next_id += 1
        return number

    def release(self, number: int) -> Outgoing | None:
        """It has arrived; None where that was known."""
        return self._packets.pop(number, None)

    @property
    def packets(self) -> tuple[Outgoing, ...]:
        """All that is kept, oldest first; each has its id."""
        return tuple(self._packets.values())


class Heard:
    """Which ids have arrived. On one connection they only grow, so one number says it."""

    def __init__(self) -> None:
        self._due: deque[int] = deque()  # sent again: the ids of what comes next
        self._next_id = 0
        self._last = -1

    def resume(self, again: Sequence[int], next_id: int) -> None:
        """What comes next has these ids, and what comes after them counts on from `next_id`."""
        self._due = deque(again)
        self._next_id = next_id

    def forget(self) -> None:
        """What comes next is of another session."""
        self._due.clear()
        self._next_id, self._last = 0, -1

    def hear(self) -> bool:
        """A packet that wants an ACK has come: whether it is new."""
        if self._due:
            number = self._due.popleft()
        else:
            number = self._next_id
            self._next_id += 1
        is_new = number > self._last
        self._last = max(self._last, number)
        return is_new
