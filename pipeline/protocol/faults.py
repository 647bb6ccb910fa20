"""What is wrong with a packet, whose fault it is, and how far the damage goes.

* `RemoteProtocolError` — the peer broke the protocol: the connection ends.
* `RefusedPacketError` — the peer sent a well-formed packet that cannot be honoured: that
  packet is refused with an `error`, and the session continues.
* `LocalProtocolError` — we tried to send what must not be sent: the connection ends.

Messages never quote the peer: what it sent may not even be encodable text.
"""

from enum import StrEnum
from typing import Literal

from pipeline.errors import PeerError, SessionError
from pipeline.protocol.close_reason import CloseReason


class Fault(StrEnum):
    """How a peer broke the protocol; the value is the `code` of the `error` that is sent to it."""

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
    FLOOD = "too_many_frames"

    @property
    def close_reason(self) -> CloseReason:
        """Why the connection is closed after this fault."""
        return _CLOSE_REASONS.get(self, CloseReason.PROTOCOL_ERROR)


_CLOSE_REASONS = {
    Fault.TEXT_FRAME: CloseReason.UNSUPPORTED_DATA,
    Fault.TOO_BIG: CloseReason.TOO_BIG,
    Fault.FLOOD: CloseReason.POLICY_VIOLATION,
    # A laptop that slept did nothing wrong and should come back.
    Fault.SILENT: CloseReason.TRY_AGAIN_LATER,
}

RefusedCode = Literal["not_ready", "bad_timestamp", "bad_metadata", "bad_ack", "audio_refused"]


class RemoteProtocolError(PeerError):
    """The peer's message breaks the protocol; `fault` names how, `close_reason` how the connection ends."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.close_reason = fault.close_reason


class RefusedPacketError(PeerError):
    """One packet is refused, and the session continues; `code` and message are for the `error` metadata."""

    def __init__(self, code: RefusedCode, message: str) -> None:
        super().__init__(message)
        self.code: RefusedCode = code


class LocalProtocolError(SessionError):
    """We tried to send what the protocol does not allow; `close_reason` is how the connection has to end."""

    def __init__(self, message: str, close_reason: CloseReason = CloseReason.INTERNAL_ERROR) -> None:
        super().__init__(message)
        self.close_reason = close_reason
