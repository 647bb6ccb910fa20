"""The packets of one session on their way to its client, whatever connection carries them.

Neighbours: `send_queue` belongs to one connection and is replaced with it; `session` puts packets in.
"""

from collections import Counter
from collections.abc import Callable

from actors.sessions.playout_lag import PlayoutLag
from actors.sessions.send_queue import DroppedKind, SendQueue
from pipeline.errors import SessionError
from pipeline.protocol.metadata import Stats
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType
from pipeline.protocol.unacked import UnackedPackets
from pipeline.values import AgentFrame


class ClientOutput:
    """Puts packets into the present connection's send queue; without one it keeps those that want an ACK.

    While the client lags, partial texts and statistics are dropped here.

    Args:
        playout_lag: what the client has and will play too late.
        on_failure: called once, with the error after which the session cannot continue.
    """

    def __init__(self, playout_lag: PlayoutLag, on_failure: Callable[[], None]) -> None:
        self.unacked = UnackedPackets()
        self.failure: SessionError | None = None
        self._playout_lag = playout_lag
        self._on_failure = on_failure
        self._queue: SendQueue | None = None  # None while no connection carries the session
        self._dropped: Counter[DroppedKind] = Counter()  # on earlier connections, and between them

    @property
    def is_connected(self) -> bool:
        """Whether a connection carries the session."""
        return self._queue is not None

    def attach(self, queue: SendQueue) -> tuple[OutgoingPacket, ...]:
        """Put packets into this queue from now on; return those to send again ahead of it."""
        self.detach()
        self._playout_lag.reset()
        self._queue = queue
        return self.unacked.packets

    def detach(self) -> None:
        """No connection carries the session any more: keep what waits and wants an ACK."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        for packet in queue.abandon():
            self._keep(packet)
        self._dropped.update(queue.dropped)

    def put(self, packet: OutgoingPacket, frame: AgentFrame | None = None) -> None:
        """Send a packet, `frame` being the audio in it; or keep it for the next connection, or drop it."""
        if self._playout_lag.frames and packet.type == PacketType.TEXT_PARTIAL:
            self._dropped["partial"] += 1
        elif self._playout_lag.frames and packet.kind == Stats.TYPE:
            self._dropped["low"] += 1
        elif self._queue is not None:
            self._queue.put(packet, frame)
        elif packet.wants_ack:
            self._keep(packet)
        elif packet.type == PacketType.AUDIO_CHUNK:
            self._dropped["audio"] += 1

    def fail(self, error: SessionError) -> None:
        """The session cannot continue; the connection that carries it raises the first such error."""
        self.failure = self.failure or error
        if self._queue is not None:
            self._queue.fail(error)
        self._on_failure()

    def dropped(self, kind: DroppedKind) -> int:
        """Packets of a kind that were dropped in the whole session."""
        return self._dropped[kind] + (self._queue.dropped[kind] if self._queue is not None else 0)

    def _keep(self, packet: OutgoingPacket) -> None:
        try:
            self.unacked.add(packet)
        except SessionError as error:
            self.fail(error)
