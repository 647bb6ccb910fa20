"""What is wrong with a packet, whose fault it is, and how far the damage goes.

* `RemoteProtocolError` — the peer broke the protocol: the connection ends.
* `RefusedPacketError` — the peer sent a well-formed packet that cannot be honoured: that
  packet is refused with an `error`, and the session goes on.
* `LocalProtocolError` — we tried to say what may not be said: the connection ends.

Messages never quote the peer: what it sent may not even be encodable text.
"""

from enum import StrEnum
from typing import Literal

from pipeline.errors import PeerError, SessionError
from pipeline.protocol.close_reason import Farewell


class Fault(StrEnum):
    """How a peer broke the protocol; the value is the `code` of the `error` it is told."""

    BAD_FRAME = "bad_frame"
    TEXT_FRAME = "text_frame"
    TOO_BIG = "too_big"
    EMPTY_MESSAGE = "empty_message"
    SHORT_HEADER = "short_header"
    LENGTH_MISMATCH = "length_mismatch"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    INVALID_METADATA = "invalid_metadata"
    OUT_OF_TURN = "out_of_turn"
    SILENT = "silent"

    @property
    def farewell(self) -> Farewell:
        """The close that this fault implies."""
        return _FAREWELLS.get(self, Farewell.PROTOCOL_ERROR)


_FAREWELLS = {
    Fault.TEXT_FRAME: Farewell.UNSUPPORTED_DATA,
    Fault.TOO_BIG: Farewell.TOO_BIG,
    # A laptop that slept did nothing wrong and should come back.
    Fault.SILENT: Farewell.TRY_AGAIN_LATER,
}

RefusedCode = Literal["not_ready", "bad_timestamp", "bad_metadata", "bad_ack"]


class RemoteProtocolError(PeerError):
    """The peer's message cannot be part of any conversation; `fault` says how, `farewell` how it ends."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.farewell = fault.farewell


class RefusedPacketError(PeerError):
    """One packet is refused, nothing more; `code` and the message are for the `error` metadata."""

    def __init__(self, code: RefusedCode, message: str) -> None:
        super().__init__(message)
        self.code: RefusedCode = code


class LocalProtocolError(SessionError):
    """We tried to say what the protocol does not allow; `farewell` says how to end it."""

    def __init__(self, message: str, farewell: Farewell = Farewell.INTERNAL_ERROR) -> None:
        super().__init__(message)
        self.farewell = farewell
