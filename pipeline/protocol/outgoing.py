"""Packets to be sent, before they are numbered: the seq and the header are added when they are written.

Between the two lies the sender's queue, in which `priority` decides which packets go first and
which are dropped. Nothing here depends on the state of a conversation.
"""

from dataclasses import dataclass, field

from pipeline.protocol.faults import LocalProtocolError
from pipeline.protocol.metadata import ClientStats, Metadata, Stats
from pipeline.protocol.metadata import encode as encode_metadata
from pipeline.protocol.packets import PAYLOAD_BYTES, PacketType, Priority, encode_ack

# A report is worth little once the next one is there; all other metadata is control.
_REPORTS = (Stats, ClientStats)


@dataclass(frozen=True, slots=True)
class OutgoingPacket:
    """One packet without a seq. `kind` is its name in the tables of `pipeline.protocol.phases`.

    `timestamp_ms` None is filled in when the packet is written, by the sender's clock. `id` is its
    number in the session, once it is kept for an ACK (`pipeline.protocol.unacked`). `value` is the
    object in a METADATA packet, for dialects that have other words for it.
    """

    kind: str
    type: PacketType
    priority: Priority
    payload: bytes | memoryview
    timestamp_ms: float | None = None
    wants_ack: bool = False
    id: int | None = field(default=None, compare=False)
    value: Metadata | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse here what could not be written later, so that the fault is found at its source."""
        size = memoryview(self.payload).nbytes
        if size > PAYLOAD_BYTES:
            raise LocalProtocolError(f"{self.kind}: {size} bytes of payload do not fit one packet")


def audio(payload: bytes | memoryview, timestamp_ms: float) -> OutgoingPacket:
    """Float32 samples, 1920 per frame. The agent's echo the timestamp of the user frame that caused them."""
    return OutgoingPacket("audio", PacketType.AUDIO_CHUNK, Priority.CRITICAL, payload, timestamp_ms)


def text_partial(text: str, timestamp_ms: float | None = None) -> OutgoingPacket:
    """The whole utterance so far; may be dropped."""
    return OutgoingPacket("text", PacketType.TEXT_PARTIAL, Priority.NORMAL, _utf8(text), timestamp_ms)


def text_final(text: str, timestamp_ms: float | None = None) -> OutgoingPacket:
    """A finished utterance; wants an ACK."""
    return OutgoingPacket(
        "text", PacketType.TEXT_FINAL, Priority.HIGH, _utf8(text), timestamp_ms, wants_ack=True
    )


def metadata(value: Metadata) -> OutgoingPacket:
    """One object of the vocabulary; reports have priority LOW, control has HIGH."""
    priority = Priority.LOW if isinstance(value, _REPORTS) else Priority.HIGH
    return OutgoingPacket(value.TYPE, PacketType.METADATA, priority, encode_metadata(value), value=value)


def ack(seq: int) -> OutgoingPacket:
    """The packet with the peer's seq has arrived."""
    return OutgoingPacket("ack", PacketType.ACK, Priority.HIGH, encode_ack(seq))


def heartbeat() -> OutgoingPacket:
    """A sign of life. Get it from `Conversation.heartbeat`, which keeps count of open requests."""
    return OutgoingPacket("heartbeat", PacketType.HEARTBEAT, Priority.LOW, b"")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"text is not encodable: {error.reason}") from None
