"""What is said, before it is numbered: seq and the header are added at the write.

Between the two lies the sender's queue, in which `priority` decides who goes first and who
is left out. Nothing here depends on the state of a conversation.
"""

from dataclasses import dataclass, field

from pipeline.protocol.faults import LocalProtocolError
from pipeline.protocol.metadata import ClientStats, Metadata, Stats
from pipeline.protocol.metadata import spell as spell_metadata
from pipeline.protocol.packets import PAYLOAD_BYTES, PacketType, Priority, spell_ack

# A report is worth little once the next one is there; all other metadata is control.
_REPORTS = (Stats, ClientStats)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One packet to be. `act` is what saying it means, for the table of who may say what.

    `timestamp_ms` None is filled in at the write, by the sender's clock. `id` is its number in the
    session, once it has been kept (`pipeline.protocol.unacked`).
    """

    act: str
    type: PacketType
    priority: Priority
    payload: bytes | memoryview
    timestamp_ms: float | None = None
    wants_ack: bool = False
    id: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse here what could not be written later, so that the fault is found at its source."""
        size = memoryview(self.payload).nbytes
        if size > PAYLOAD_BYTES:
            raise LocalProtocolError(f"{self.act}: {size} bytes of payload do not fit one packet")


def audio(payload: bytes | memoryview, timestamp_ms: float) -> Outgoing:
    """Float32 samples, 1920 a frame. The agent's echo the timestamp of the user frame that released them."""
    return Outgoing("audio", PacketType.AUDIO_CHUNK, Priority.CRITICAL, payload, timestamp_ms)


def text_partial(text: str, timestamp_ms: float | None = None) -> Outgoing:
    """The whole utterance so far; may be left out."""
    return Outgoing("text", PacketType.TEXT_PARTIAL, Priority.NORMAL, _utf8(text), timestamp_ms)


def text_final(text: str, timestamp_ms: float | None = None) -> Outgoing:
    """An utterance, closed; wants an ACK."""
    return Outgoing("text", PacketType.TEXT_FINAL, Priority.HIGH, _utf8(text), timestamp_ms, wants_ack=True)


def metadata(value: Metadata) -> Outgoing:
    """One object of the vocabulary; reports are LOW, control is HIGH."""
    priority = Priority.LOW if isinstance(value, _REPORTS) else Priority.HIGH
    return Outgoing(value.TYPE, PacketType.METADATA, priority, spell_metadata(value))


def ack(seq: int) -> Outgoing:
    """The packet numbered `seq` by the peer has arrived."""
    return Outgoing("ack", PacketType.ACK, Priority.HIGH, spell_ack(seq))


def heartbeat() -> Outgoing:
    """This end is alive. Ask a conversation for one: it must know whether it asks or answers."""
    return Outgoing("heartbeat", PacketType.HEARTBEAT, Priority.LOW, b"")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"text is not encodable: {error.reason}") from None
