"""A transport carries whole messages to one peer and back, and never waits for it without a deadline.

What belongs here: the interface by which a connection uses its transport. The WebSocket behind it
is in `web`; tests use one in memory.
"""

from typing import Protocol

from pipeline.errors import PeerError
from pipeline.protocol.close_reason import CloseReason


class TransportClosedError(PeerError):
    """The peer is gone: nothing more can be received or sent. `deliberate`: it closed on purpose."""

    def __init__(self, *, deliberate: bool = False) -> None:
        super().__init__()
        self.deliberate = deliberate


class SlowPeerError(TransportClosedError):
    """The peer does not read: a write was given up at its deadline, and no other can follow it."""


class Transport(Protocol):
    """One message at a time in each direction; one task may receive while another sends."""

    @property
    def peer(self) -> str:
        """The peer's address, for the log."""
        ...

    @property
    def received_s(self) -> float:
        """When anything came last from the peer, a reply to a ping included (`awake_time`)."""
        ...

    def charge(self, processor_s: float) -> None:
        """What the peer sent has cost this much of a processor on a thread; it may be read later for it."""
        ...

    async def ping(self) -> None:
        """Ask the peer for a sign of life, below the messages.

        Raises:
            TransportClosedError: the peer closed, or is lost.
            SlowPeerError: it does not read.
        """
        ...

    async def receive(self) -> bytes | str:
        """The next message: bytes, or the text of a text frame.

        Raises:
            TransportClosedError: the peer closed, or is lost.
        """
        ...

    async def send(self, message: bytes | str) -> None:
        """Write one message, bytes or text; give up after the transport's own deadline.

        Raises:
            TransportClosedError: the peer closed, or is lost.
            SlowPeerError: the deadline passed; the transport is unusable from now on.
        """
        ...

    async def close(self, close_reason: CloseReason) -> None:
        """Close for this reason; closing what is closed already does nothing."""
        ...
