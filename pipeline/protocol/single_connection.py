"""What the dialects have in common whose session ends with its connection: Live, Realtime and Moshi's.

Neighbours: `dialect` says what each of these means. What does not belong here: anything that one of them
does in its own way.
"""

from typing import ClassVar

from pipeline.protocol.conversation import ConversationStatistics
from pipeline.protocol.counters import MessageCounters
from pipeline.protocol.faults import LocalProtocolError


class SingleConnection:
    """The counters of a connection, and its end, after which nothing is received or sent."""

    resumable: ClassVar = False
    has_heartbeats: ClassVar = False

    def __init__(self) -> None:
        self._closed = False
        self._counters = MessageCounters()

    def statistics(self) -> ConversationStatistics:
        """The counters so far; what is unknown counts as one kind."""
        return self._counters.statistics()

    def close(self) -> None:
        """The connection is over."""
        self._closed = True

    def _check_open(self, done: str) -> None:
        if self._closed:
            raise LocalProtocolError(f"the conversation is closed; nothing can be {done}")
