"""What a received packet means: `Conversation.receive` gives one of these events for each message.

No event quotes the peer except where that is its content (text, metadata): `Ignored` and
`Refused` name their causes from a fixed list, so that they can be counted.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.protocol.faults import RefusedCode
from pipeline.protocol.metadata import Configure, Metadata
from pipeline.protocol.outgoing import OutgoingPacket

IgnoredReason = Literal[
    "unknown_packet",  # a packet type of a later protocol
    "unknown_metadata",  # a metadata `type` of a later protocol, or not one for this end
    "unknown_ack",  # of a packet that wanted none, or had one already
    "again",  # sent again after a resume, though it had arrived
    "after_bye",  # on its way when the client sent bye
    "not_ready",  # audio from a client whose dialect lets it send before there is a lane
]


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """Float32 samples, little endian, not yet validated. `timestamp_ms` is finite, and exact to the bit."""

    seq: int
    timestamp_ms: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class EncodedAudioReceived:
    """Audio in the dialect's format, in pieces of any length; Opus packets one by one."""

    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class InputEnded:
    """The user has finished speaking; `silence`, encoded like the audio, completes the last frame."""

    silence: bytes


@dataclass(frozen=True, slots=True)
class InputCleared:
    """Audio that was not processed yet is to be forgotten."""


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """A voice or a role is asked for; `unsupported` names what the client is not given."""

    change: Configure | None
    unsupported: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The dialect has handled the message itself; its replies are all there is to do."""


@dataclass(frozen=True, slots=True)
class TextReceived:
    """An utterance so far, or (`final`) finished: the agent's, or the user's as transcribed by the client."""

    text: str
    final: bool
    timestamp_ms: float


@dataclass(frozen=True, slots=True)
class MetadataReceived:
    """One validated object of the peer's vocabulary."""

    value: Metadata


@dataclass(frozen=True, slots=True)
class Acked:
    """`packet`, which this end sent as `seq`, has arrived."""

    seq: int
    packet: OutgoingPacket


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The peer is alive."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The packet has no effect; it is counted under `reason`."""

    reason: IgnoredReason


@dataclass(frozen=True, slots=True)
class Refused:
    """The packet cannot be honoured: the peer has to be sent an `error`; the session continues."""

    code: RefusedCode
    message: str


Event = (
    AudioReceived
    | EncodedAudioReceived
    | InputEnded
    | InputCleared
    | SessionChanged
    | TextReceived
    | MetadataReceived
    | Acked
    | HeartbeatReceived
    | Answered
    | Ignored
    | Refused
)
