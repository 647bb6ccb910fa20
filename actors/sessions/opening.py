"""The first packets that a client gets on a connection.

Neighbours: `actors.engine` calls this; the objects are `pipeline.protocol.metadata`'s.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict

from actors.capacity import Capacity
from pipeline.config import Settings
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import (
    PROTOCOL,
    CapacityInfo,
    ConnectionEstablished,
    ErrorNotice,
    LimitsInfo,
    Metadata,
    ModelInfo,
    Resumed,
)
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.units import BURST_FRAMES, FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import ModelCard


def greeting(
    settings: Settings, card: ModelCard, session_id: str, token: str | None, capacity: Capacity | None
) -> ConnectionEstablished:
    """What a client needs to know about the session, the model, the limits and the machine."""
    limits, heartbeat = settings.limits, settings.heartbeat
    return ConnectionEstablished(
        protocol=PROTOCOL,
        session_id=session_id,
        resume_token=token,
        server_time=time.time() * 1000,
        sample_rate=SAMPLE_RATE_HZ,
        frame_samples=FRAME_SAMPLES,
        model=ModelInfo(**asdict(card)),
        limits=LimitsInfo(
            message_bytes=limits.message_bytes,
            burst_frames=BURST_FRAMES,
            max_lag_ms=limits.max_lag_ms,
            heartbeat_every_ms=round(heartbeat.every_s * 1000),
            heartbeat_timeout_ms=round(heartbeat.timeout_s * 1000),
        ),
        capacity=None if capacity is None else CapacityInfo(capacity.sessions, capacity.advice),
    )


def opening_packets(
    established: ConnectionEstablished,
    unacked: Sequence[OutgoingPacket],
    *,
    next_id: int,
    resumed: bool,
    token_rejected: bool,
) -> list[OutgoingPacket]:
    """The greeting, whether the session was resumed, and the packets to send again.

    Args:
        established: the greeting.
        unacked: packets that want an ACK and have none, each with its id.
        next_id: the id of the next packet that wants an ACK.
        resumed: this connection resumes a session.
        token_rejected: the client gave a token that is not valid any more.
    """
    notices: list[Metadata] = [established]
    if token_rejected:
        notices.append(ErrorNotice("not_resumed", "that session is over; this is a new one"))
    if resumed and established.resume_token is not None:
        ids = tuple(packet.id for packet in unacked if packet.id is not None)
        notices.append(Resumed(established.session_id, established.resume_token, ids, next_id))
    return [*map(outgoing.metadata, notices), *unacked]
