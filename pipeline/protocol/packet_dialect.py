"""The packet protocol as a dialect: the server's end of a `Conversation`."""

import math
from typing import ClassVar

from pipeline.protocol.conversation import Conversation
from pipeline.protocol.dialect import ConnectionParameters
from pipeline.protocol.metadata import Configure
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.units import SAMPLE_RATE_HZ, AudioFormat


class PacketDialect(Conversation):
    """Packets carry frames of float32 samples, and a session outlives a lost connection."""

    name: ClassVar = "packets"
    resumable: ClassVar = True
    lifetime_s: ClassVar = math.inf
    input_format: ClassVar = AudioFormat("float32", SAMPLE_RATE_HZ)
    output_format: ClassVar = AudioFormat("float32", SAMPLE_RATE_HZ)
    input_buffer_s: ClassVar = 0.0
    wants_silence: ClassVar = False
    has_heartbeats: ClassVar = True
    request: ClassVar[Configure | None] = None
    unsupported: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: ConnectionParameters) -> None:
        super().__init__(
            "server",
            heartbeat_every_s=parameters.heartbeat_every_s,
            heartbeat_timeout_s=parameters.heartbeat_timeout_s,
            now_s=parameters.now_s,
            unacked=parameters.unacked,
        )

    def messages(self, packet: OutgoingPacket, *, timestamp_ms: float) -> tuple[bytes, ...]:
        """One packet is one message."""
        return (self.encode_next(packet, timestamp_ms=timestamp_ms),)

    def farewell(self, cause: str) -> tuple[bytes, ...]:  # noqa: ARG002 - the close code says it
        """Nothing: the close code is the reason."""
        return ()
