"""One end of one connection: every message is an event and its replies, or a `RemoteProtocolError`.

The same class is the server's end and the client's. It waits for nothing and reads no clock:
messages and times come in, events and messages go out.

    event, replies = conversation.receive(message, now_s=now)   # replies: to be sent, like any packet
    message = conversation.encode_next(outgoing.audio(pcm, timestamp_ms), timestamp_ms=epoch_ms)

A packet gets its seq when it is written and not before, so that seqs are contiguous whatever a
send queue in between has reordered or dropped. Events are in `pipeline.protocol.events`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.protocol import metadata, outgoing, phases
from pipeline.protocol.events import (
    Acked,
    AudioReceived,
    Event,
    HeartbeatReceived,
    Ignored,
    MetadataReceived,
    Refused,
    TextReceived,
)
from pipeline.protocol.faults import Fault, LocalProtocolError, RefusedPacketError, RemoteProtocolError
from pipeline.protocol.liveness import Liveness
from pipeline.protocol.metadata import Resumed, Role
from pipeline.protocol.objects import decode_text
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import SEQS, Packet, PacketType, decode, decode_ack, encode, name_of
from pipeline.protocol.phases import Phase
from pipeline.protocol.unacked import ReceivedIds, UnackedPackets
from pipeline.units import FRAME_MS


def capture_ms(timestamp_ms: float, index: int, frames: int) -> float:
    """Frame `index` of a burst of `frames` ends that many frames before the last, whose time is exact."""
    return timestamp_ms - FRAME_MS * (frames - 1 - index)


@dataclass(frozen=True, slots=True)
class ConversationStatistics:
    """Packet counts of one end: sent and received by type name, ignored and refused by reason."""

    sent: Mapping[str, int]
    received: Mapping[str, int]
    ignored: Mapping[str, int]
    refused: Mapping[str, int]
    unacked: int


class Conversation:
    """One end of one connection. `unacked` and `received_ids` belong to the session and outlive it."""

    def __init__(
        self,
        role: Role,
        *,
        heartbeat_every_s: float,
        heartbeat_timeout_s: float,
        now_s: float,
        unacked: UnackedPackets | None = None,
        received_ids: ReceivedIds | None = None,
    ) -> None:
        self._role: Role = role
        self._peer: Role = "client" if role == "server" else "server"
        self._phase = Phase.GREETING
        self._fault: RemoteProtocolError | None = None
        self._liveness = Liveness(every_s=heartbeat_every_s, timeout_s=heartbeat_timeout_s, now_s=now_s)
        self._next_seq = 0
        self._unacked = UnackedPackets() if unacked is None else unacked
        self._received_ids = ReceivedIds() if received_ids is None else received_ids
        self._awaited_acks: dict[int, int] = {}  # seq → id, of packets that this connection sent
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    @property
    def phase(self) -> Phase:
        """How far the conversation has come."""
        return self._phase

    @property
    def unacked(self) -> tuple[OutgoingPacket, ...]:
        """Packets that were sent, want an ACK and have none yet, oldest first."""
        return self._unacked.packets

    def statistics(self) -> ConversationStatistics:
        """The counters so far."""
        return ConversationStatistics(
            sent=MappingProxyType(dict(self._sent)),
            received=MappingProxyType(dict(self._received)),
            ignored=MappingProxyType(dict(self._ignored)),
            refused=MappingProxyType(dict(self._refused)),
            unacked=len(self._unacked.packets),
        )

    def close(self) -> None:
        """The connection is over: sending and receiving raise from now on."""
        self._phase = Phase.CLOSED

    # Receiving

    def receive(self, message: bytes | str, *, now_s: float) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        """The event that one WebSocket message means, and the packets to send in reply.

        A packet that wants an ACK gets one even if it is refused or ignored: it has arrived, and
        sending it again would change nothing. An ACK is never ACKed.

        Raises:
            RemoteProtocolError: the message breaks the protocol; every later call raises the same error.
            LocalProtocolError: the conversation was closed.
        """
        if self._phase is Phase.CLOSED:
            raise LocalProtocolError("the conversation is closed; nothing can be received")
        if self._fault is not None:
            raise self._fault
        try:
            return self._receive(message, now_s)
        except RemoteProtocolError as fault:
            self._fault = fault
            raise

    def _receive(self, message: bytes | str, now_s: float) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        if isinstance(message, str):
            raise RemoteProtocolError(
                Fault.TEXT_FRAME, "packets travel in binary frames, this is a text frame"
            )
        packet = decode(message)
        self._liveness.record_received(now_s)
        self._received[name_of(packet.type)] += 1
        try:
            event = self._event_of(packet)
        except RefusedPacketError as refusal:
            event = Refused(refusal.code, str(refusal))
        replies = []
        if packet.wants_ack and packet.type != PacketType.ACK:
            replies.append(outgoing.ack(packet.seq))
            if not self._received_ids.record():
                event = Ignored("again")
        match event:
            case HeartbeatReceived() if self._liveness.should_answer(now_s):
                replies.append(outgoing.heartbeat())
            case MetadataReceived(Resumed(unacked=unacked, next_id=next_id)):
                self._received_ids.resume(unacked, next_id)
            case Ignored(reason):
                self._ignored[reason] += 1
            case Refused(code):
                self._refused[code] += 1
        return event, tuple(replies)

    def _event_of(self, packet: Packet) -> Event:
        """The meaning of a packet; changes the phase where the packet is a transition."""
        payload = bytes(packet.payload)
        match packet.type:
            case PacketType.HEARTBEAT:
                return HeartbeatReceived()
            case PacketType.ACK:
                return self._acked(payload)
            case PacketType.AUDIO_CHUNK:
                return self._advance("audio") or _audio(packet, payload)
            case PacketType.TEXT_PARTIAL | PacketType.TEXT_FINAL:
                text = decode_text(payload)
                final = packet.type == PacketType.TEXT_FINAL
                return self._advance("text") or TextReceived(text, final, packet.timestamp_ms)
            case PacketType.METADATA:
                return self._metadata(payload)
            case _:
                return Ignored("unknown_packet")

    def _metadata(self, payload: bytes) -> Event:
        value = metadata.decode(payload, self._peer)
        if value is None:
            return Ignored("unknown_metadata")
        return self._advance(value.TYPE) or MetadataReceived(value)

    def _advance(self, kind: str) -> Ignored | None:
        """Take the transition of a packet the peer may send now; ignore, refuse or fault any other."""
        if phases.can_send(self._phase, self._peer, kind):
            self._phase = phases.next_phase(self._phase, self._peer, kind)
            return None
        if self._peer == "server":
            raise RemoteProtocolError(
                Fault.OUT_OF_TURN, f"the server must not send {kind} in {self._phase.name}"
            )
        if self._phase is Phase.CLOSING:
            return Ignored("after_bye")
        assert kind == "audio", f"a client may send {kind} at any time"
        raise RefusedPacketError("not_ready", "audio may be sent once the server has sent ready")

    def _acked(self, payload: bytes) -> Event:
        seq = decode_ack(payload)
        if seq is None:
            raise RefusedPacketError("bad_ack", f"an ACK holds one u32, this one {len(payload)} bytes")
        packet_id = self._awaited_acks.pop(seq, None)
        packet = None if packet_id is None else self._unacked.remove(packet_id)
        return Ignored("unknown_ack") if packet is None else Acked(seq, packet)

    # Sending

    def encode_next(self, packet: OutgoingPacket, *, timestamp_ms: float) -> bytes:
        """The message to write now, with the next seq; `timestamp_ms` is for packets without a time.

        Raises:
            LocalProtocolError: this end must not send the packet now, or too many were never ACKed.
        """
        if not phases.can_send(self._phase, self._role, packet.kind):
            raise LocalProtocolError(f"the {self._role} must not send {packet.kind} in {self._phase.name}")
        seq = self._next_seq
        stamp_ms = timestamp_ms if packet.timestamp_ms is None else packet.timestamp_ms
        message = encode(
            Packet(packet.type, packet.priority, seq, stamp_ms, packet.payload, packet.wants_ack)
        )
        if packet.wants_ack:
            self._awaited_acks[seq] = self._unacked.add(packet)
        self._next_seq = (seq + 1) % SEQS
        self._sent[packet.type.name.lower()] += 1
        self._phase = phases.next_phase(self._phase, self._role, packet.kind)
        return message

    # Liveness

    def heartbeat(self, *, now_s: float) -> OutgoingPacket:
        """A heartbeat of our own; the next is due `heartbeat_every_s` from now."""
        self._liveness.record_sent(now_s)
        return outgoing.heartbeat()

    def heartbeat_due(self, now_s: float) -> bool:
        """Whether it is time to send one."""
        return self._liveness.is_due(now_s)

    def silence_s(self, now_s: float) -> float:
        """Seconds since the last message of the peer."""
        return self._liveness.silence_s(now_s)

    def check_alive(self, now_s: float) -> None:
        """Raise a `RemoteProtocolError` if the peer has been silent for `heartbeat_timeout_s`."""
        if self._liveness.is_timed_out(now_s):
            raise RemoteProtocolError(Fault.SILENT, f"nothing received for {self.silence_s(now_s):.1f} s")

    def next_deadline_s(self) -> float:
        """When `heartbeat_due` becomes true or `check_alive` raises, if nothing arrives before."""
        return self._liveness.next_deadline_s()


def _audio(packet: Packet, payload: bytes) -> AudioReceived:
    if not math.isfinite(packet.timestamp_ms):
        raise RefusedPacketError("bad_timestamp", "the timestamp of audio must be a finite number")
    return AudioReceived(packet.seq, packet.timestamp_ms, payload)
