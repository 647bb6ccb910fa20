"""A transport carries whole messages to one peer and back, and never waits for it without a deadline.

What belongs here: the few words by which a session knows its connection. The WebSocket
behind them is in `web`; tests speak them over memory.
"""

from typing import Protocol

from pipeline.errors import PeerError
from pipeline.protocol.close_reason import Farewell


class TransportClosedError(PeerError):
    """The peer is gone: nothing more can be received or sent. `parted`: it said so, and closed on purpose."""

    def __init__(self, *, parted: bool = False) -> None:
        super().__init__()
        self.parted = parted


class SlowPeerError(TransportClosedError):
    """The peer does not read: a write was given up at its deadline, and nothing can follow it."""


class Transport(Protocol):
    """One message at a time in each direction; one task may receive while another sends."""

    @property
    def peer(self) -> str:
        """The peer's address, for the log."""
        ...

    async def receive(self) -> bytes | str:
        """The next message, bytes or (which no client of ours sends) text.

        Raises:
            TransportClosedError: the peer closed, or is lost.
        """
        ...

    async def send(self, message: bytes) -> None:
        """Write one message; give up after the transport's own deadline.

        Raises:
            TransportClosedError: the peer closed, or is lost.
            SlowPeerError: the deadline passed; the transport is unusable from now on.
        """
        ...

    async def close(self, farewell: Farewell) -> None:
        """Say why, and end; closing what is closed already does nothing."""
        ...
