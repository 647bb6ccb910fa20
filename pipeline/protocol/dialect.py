"""What a connection needs of the way in which its client speaks.

A dialect is one end of one connection, sans-IO: messages in, events out; things to send in, messages
out. It has phases and errors of its own, and knows nothing of sockets, clocks and samples: times are
passed in, and audio is bytes in the dialect's formats. Things to send are `OutgoingPacket`s,
whatever the dialect; what a dialect has no words for is no message.

The packet protocol (`packet_dialect`) is the first; `live`, `realtime` and `moshi` are those of other
clients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.protocol.conversation import ConversationStatistics
from pipeline.protocol.events import Event
from pipeline.protocol.metadata import Configure
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.unacked import UnackedPackets
from pipeline.units import AudioFormat

Message = bytes | str  # a binary or a text frame of a WebSocket


@dataclass(frozen=True, slots=True)
class ConnectionParameters:
    """What every dialect may need when its connection begins.

    Attributes:
        heartbeat_every_s: how often a sign of life is sent.
        heartbeat_timeout_s: how long a client may be silent where it must not be.
        lifetime_s: how long a session may last in dialects that announce its end.
        now_s: the monotonic time.
        wall_clock_s: seconds since the Unix epoch.
        unacked: the session's packets that want an ACK and have none.
        voices: the voices of the model; None where it takes neither a voice nor a role.
    """

    heartbeat_every_s: float
    heartbeat_timeout_s: float
    lifetime_s: float
    now_s: float
    wall_clock_s: float
    unacked: UnackedPackets
    voices: tuple[str, ...] | None = None


class Dialect(Protocol):
    """One end of one connection."""

    @property
    def name(self) -> str:
        """For the log and the metrics."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether its clients can continue a session on another connection."""
        ...

    @property
    def lifetime_s(self) -> float:
        """How long a session may last; infinite where the dialect cannot announce an end."""
        ...

    @property
    def input_format(self) -> AudioFormat:
        """How audio from the client is encoded; fixed once the first has been received."""
        ...

    @property
    def output_format(self) -> AudioFormat:
        """How audio for the client is encoded; fixed once the first has been sent."""
        ...

    @property
    def input_buffer_s(self) -> float:
        """Audio that the client may send ahead of real time; 0 where its pace is that of the session."""
        ...

    @property
    def wants_silence(self) -> bool:
        """Whether the session goes on with silence now while no audio comes; for dialects with a buffer."""
        ...

    @property
    def has_heartbeats(self) -> bool:
        """Whether its messages show that the client is alive; otherwise the transport's pings have to."""
        ...

    @property
    def request(self) -> Configure | None:
        """What the client asked for when it connected: how to sample, a voice, a role."""
        ...

    @property
    def unsupported(self) -> tuple[str, ...]:
        """What the client asked for when it connected and this server cannot do; the client is informed."""
        ...

    def receive(self, message: Message, *, now_s: float) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        """The event that one message means, and what to send in reply.

        Raises:
            RemoteProtocolError: the connection has to end because of it.
            LocalProtocolError: the conversation was closed.
        """
        ...

    def messages(self, packet: OutgoingPacket, *, timestamp_ms: float) -> Sequence[Message]:
        """The messages to write now for something to send; audio is in `output_format`.

        Raises:
            LocalProtocolError: it must not be sent now.
        """
        ...

    def farewell(self, cause: str) -> Sequence[Message]:
        """The last messages of a connection that ends for this cause, once everything else is written."""
        ...

    def check_alive(self, now_s: float) -> None:
        """Raise a `RemoteProtocolError` if the client has been silent for too long."""
        ...

    def heartbeat_due(self, now_s: float) -> bool:
        """Whether it is time for a sign of life."""
        ...

    def heartbeat(self, *, now_s: float) -> OutgoingPacket:
        """A sign of life."""
        ...

    def next_deadline_s(self) -> float:
        """When `heartbeat_due` becomes true or `check_alive` raises, if nothing arrives before."""
        ...

    def statistics(self) -> ConversationStatistics:
        """The counters so far."""
        ...

    def close(self) -> None:
        """The connection is over."""
        ...
