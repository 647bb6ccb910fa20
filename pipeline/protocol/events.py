"""What a received packet means. Every event is one of these, and each says what it carries.

Nothing here quotes a peer except where it is the point (text, metadata): `Ignored` and
`Refused` name their causes from a fixed list, so that they can be counted.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.protocol.faults import RefusedCode
from pipeline.protocol.metadata import Metadata
from pipeline.protocol.outgoing import Outgoing

IgnoredWhat = Literal[
    "unknown_packet",  # a packet type of a later protocol
    "unknown_metadata",  # a metadata `type` of a later protocol, or not one for this end
    "unknown_ack",  # of a packet that wanted none, or had one already
    "again",  # sent again after a resume, though it had arrived
    "after_bye",  # on its way when the client parted
]


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """Samples, not yet looked at: float32, little endian. `timestamp_ms` is finite, and exact to the bit."""

    seq: int
    timestamp_ms: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class TextReceived:
    """An utterance so far, or (`final`) closed: the agent's, or the user's as their client wrote it down."""

    text: str
    final: bool
    timestamp_ms: float


@dataclass(frozen=True, slots=True)
class MetadataReceived:
    """One object of the peer's vocabulary, validated."""

    value: Metadata


@dataclass(frozen=True, slots=True)
class Acked:
    """The packet numbered `seq` here has arrived there."""

    seq: int
    said: Outgoing


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The peer is alive."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Passed over, and counted."""

    what: IgnoredWhat


@dataclass(frozen=True, slots=True)
class Refused:
    """This packet cannot be honoured: the peer is to be told in an `error`; the session goes on."""

    code: RefusedCode
    message: str


Event = AudioReceived | TextReceived | MetadataReceived | Acked | HeartbeatReceived | Ignored | Refused
