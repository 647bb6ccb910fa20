"""The binary format: any bytes are one packet or a `RemoteProtocolError`, and nothing else.

One WebSocket binary message is one packet: a header of 17 bytes, little endian, then the
payload. `type u8 · priority u8 · seq u32 · timestamp f64 · len u16 · ack u8`.

Liberal in what is accepted, where clients may differ: an unknown type and an unknown
priority are kept as numbers (the first is ignored further up, the second is only the
sender's own hint), any ack byte but 0 wants an ACK, and a timestamp may be any 64 bits.
Strict in what is sent.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError

_HEADER: Final = struct.Struct("<BBIdHB")
HEADER_BYTES: Final = _HEADER.size
PAYLOAD_BYTES: Final = 0xFFFF  # the largest a u16 can announce
MESSAGE_BYTES: Final = HEADER_BYTES + PAYLOAD_BYTES
SEQS: Final = 1 << 32
_ACK: Final = struct.Struct("<I")

assert HEADER_BYTES == 17


class PacketType(IntEnum):
    """What a packet carries."""

    HEARTBEAT = 0x01
    ACK = 0x02
    AUDIO_CHUNK = 0x10
    TEXT_PARTIAL = 0x20
    TEXT_FINAL = 0x21
    METADATA = 0x30


class Priority(IntEnum):
    """The order in the sender's queue; the receiver handles packets as they arrive."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `type` and `priority` are numbers, since a peer may use a later protocol.

    `timestamp_ms` is milliseconds since the Unix epoch by the sender's clock.
    """

    type: int
    priority: int
    seq: int
    timestamp_ms: float
    payload: bytes | memoryview
    wants_ack: bool = False


def encode(packet: Packet) -> bytes:
    """The message of a packet; the payload is copied once, into the message.

    Raises:
        LocalProtocolError: a field does not fit its place in the header.
    """
    size_bytes = memoryview(packet.payload).nbytes
    try:
        header = _HEADER.pack(
            packet.type, packet.priority, packet.seq, packet.timestamp_ms, size_bytes, packet.wants_ack
        )
    except struct.error as error:
        raise LocalProtocolError(f"a packet of {size_bytes} bytes does not fit its header: {error}") from None
    return b"".join((header, packet.payload))


def decode(message: bytes) -> Packet:
    """The packet in a message; the payload is a copy, aligned for reading it as samples.

    Raises:
        RemoteProtocolError: empty, too big, shorter than a header, or `len` is not what follows.
    """
    if not message:
        raise RemoteProtocolError(
            Fault.EMPTY_MESSAGE, "a message must hold one packet, and this one is empty"
        )
    if len(message) > MESSAGE_BYTES:
        raise RemoteProtocolError(Fault.TOO_BIG, f"a packet has at most {MESSAGE_BYTES} bytes")
    if len(message) < HEADER_BYTES:
        raise RemoteProtocolError(
            Fault.SHORT_HEADER, f"a header has {HEADER_BYTES} bytes, this message {len(message)}"
        )
    kind, priority, seq, timestamp_ms, announced, ack = _HEADER.unpack_from(message)
    follows = len(message) - HEADER_BYTES
    if announced != follows:
        raise RemoteProtocolError(
            Fault.LENGTH_MISMATCH, f"the header announces {announced} payload bytes, {follows} follow"
        )
    return Packet(kind, priority, seq, timestamp_ms, message[HEADER_BYTES:], ack != 0)


def encode_ack(seq: int) -> bytes:
    """The payload of an ACK: the seq of the packet that has arrived."""
    return _ACK.pack(seq)


def decode_ack(payload: bytes) -> int | None:
    """The seq that an ACK acknowledges; None where the payload is not one u32."""
    return _ACK.unpack(payload)[0] if len(payload) == _ACK.size else None


def name_of(kind: int) -> str:
    """The name a packet type is counted under; all unknown ones share one."""
    try:
        return PacketType(kind).name.lower()
    except ValueError:
        return "unknown"
