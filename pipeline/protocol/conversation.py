"""One end of one connection: every message is an event and its replies, or a `RemoteProtocolError`.

The same class is the server's end and the client's. It waits for nothing and reads no clock:
messages and times come in, events and messages go out.

    event, replies = conversation.receive(message, now_s=now)   # replies: to be sent, like any other
    message = conversation.number(outgoing.audio(pcm, timestamp_ms), timestamp_ms=epoch_ms)

What is sent is numbered at the write and not before, so that seqs are contiguous whatever a
queue between the two has reordered or left out. Events are in `pipeline.protocol.events`.
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
from pipeline.protocol.outgoing import Outgoing
from pipeline.protocol.packets import SEQS, Packet, PacketType, decode, encode, name_of, read_ack
from pipeline.protocol.phases import Phase
from pipeline.protocol.unacked import Heard, Kept
from pipeline.units import FRAME_MS


def capture_ms(timestamp_ms: float, index: int, frames: int) -> float:
    """Frame `index` of a burst of `frames` ends that many frames before the last, whose time is exact."""
    return timestamp_ms - FRAME_MS * (frames - 1 - index)


@dataclass(frozen=True, slots=True)
class ConversationStatistics:
    """What went through one end: packets by type name, what was passed over, what was refused."""

    sent: Mapping[str, int]
    received: Mapping[str, int]
    ignored: Mapping[str, int]
    refused: Mapping[str, int]
    unacked: int


class Conversation:
    """One end of one connection. `kept` and `heard` are those of the session, where it has had another."""

    def __init__(
        self,
        role: Role,
        *,
        heartbeat_every_s: float,
        heartbeat_timeout_s: float,
        now_s: float,
        kept: Kept | None = None,
        heard: Heard | None = None,
    ) -> None:
        self._role: Role = role
        self._peer: Role = "client" if role == "server" else "server"
        self._phase = Phase.GREETING
        self._fault: RemoteProtocolError | None = None
        self._liveness = Liveness(every_s=heartbeat_every_s, timeout_s=heartbeat_timeout_s, now_s=now_s)
        self._next_seq = 0
        self._kept = Kept() if kept is None else kept
        self._heard_ids = Heard() if heard is None else heard
        self._awaited: dict[int, int] = {}  # seq → id, of what this connection sent and wants an ACK for
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    @property
    def phase(self) -> Phase:
        """How far the conversation has come."""
        return self._phase

    @property
    def unacked(self) -> tuple[Outgoing, ...]:
        """What was sent, wants an ACK and has none yet, oldest first."""
        return self._kept.packets

    def statistics(self) -> ConversationStatistics:
        """The counters so far."""
        return ConversationStatistics(
            sent=MappingProxyType(dict(self._sent)),
            received=MappingProxyType(dict(self._received)),
            ignored=MappingProxyType(dict(self._ignored)),
            refused=MappingProxyType(dict(self._refused)),
            unacked=len(self._kept.packets),
        )

    def close(self) -> None:
        """Nothing is said or heard any more."""
        self._phase = Phase.CLOSED

    # Hearing

    def receive(self, message: bytes | str, *, now_s: float) -> tuple[Event, tuple[Outgoing, ...]]:
        """What one WebSocket message means, and what is to be sent because of it.

        A packet that wants an ACK gets one even if it is refused or passed over: it has
        arrived, and would not fare better a second time. An ACK is never ACKed.

        Raises:
            RemoteProtocolError: the message is none of this protocol; every later call raises it again.
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

    def _receive(self, message: bytes | str, now_s: float) -> tuple[Event, tuple[Outgoing, ...]]:
        if isinstance(message, str):
            raise RemoteProtocolError(
                Fault.TEXT_FRAME, "packets travel in binary frames, this is a text frame"
            )
        packet = decode(message)
        self._liveness.hear(now_s)
        self._received[name_of(packet.type)] += 1
        try:
            event = self._meaning(packet)
        except RefusedPacketError as refusal:
            event = Refused(refusal.code, str(refusal))
        replies = []
        if packet.wants_ack and packet.type != PacketType.ACK:
            replies.append(outgoing.ack(packet.seq))
            if not self._heard_ids.hear():
                event = Ignored("again")
        match event:
            case HeartbeatReceived() if self._liveness.answers(now_s):
                replies.append(outgoing.heartbeat())
            case MetadataReceived(Resumed(unacked=again, next_id=next_id)):
                self._heard_ids.resume(again, next_id)
            case Ignored(what):
                self._ignored[what] += 1
            case Refused(code):
                self._refused[code] += 1
        return event, tuple(replies)

    def _meaning(self, packet: Packet) -> Event:
        """What a packet says; the phase turns with it."""
        payload = bytes(packet.payload)
        match packet.type:
            case PacketType.HEARTBEAT:
                return HeartbeatReceived()
            case PacketType.ACK:
                return self._acked(payload)
            case PacketType.AUDIO_CHUNK:
                return self._heard("audio") or _audio(packet, payload)
            case PacketType.TEXT_PARTIAL | PacketType.TEXT_FINAL:
                text = decode_text(payload)
                final = packet.type == PacketType.TEXT_FINAL
                return self._heard("text") or TextReceived(text, final, packet.timestamp_ms)
            case PacketType.METADATA:
                return self._told(payload)
            case _:
                return Ignored("unknown_packet")

    def _told(self, payload: bytes) -> Event:
        value = metadata.read(payload, self._peer)
        if value is None:
            return Ignored("unknown_metadata")
        return self._heard(value.TYPE) or MetadataReceived(value)

    def _heard(self, act: str) -> Ignored | None:
        """Turn the page with what the peer said, or pass over, refuse or fault what it may not say now."""
        if phases.may_say(self._phase, self._peer, act):
            self._phase = phases.after(self._phase, self._peer, act)
            return None
        if self._peer == "server":
            raise RemoteProtocolError(
                Fault.OUT_OF_TURN, f"the server may not say {act} in {self._phase.name}"
            )
        if self._phase is Phase.PARTED:
            return Ignored("after_bye")
        assert act == "audio", f"a client may say {act} at any time"
        raise RefusedPacketError("not_ready", "audio may be sent once the server has said ready")

    def _acked(self, payload: bytes) -> Event:
        seq = read_ack(payload)
        if seq is None:
            raise RefusedPacketError("bad_ack", f"an ACK holds one u32, this one {len(payload)} bytes")
        awaited = self._awaited.pop(seq, None)
        sent = None if awaited is None else self._kept.release(awaited)
        return Ignored("unknown_ack") if sent is None else Acked(seq, sent)

    # Saying

    def number(self, said: Outgoing, *, timestamp_ms: float) -> bytes:
        """The message to write now, with the next seq; `timestamp_ms` is for what carries no time of its own.

        Raises:
            LocalProtocolError: this end may not say so now, or too much was never ACKed.
        """
        if not phases.may_say(self._phase, self._role, said.act):
            raise LocalProtocolError(f"the {self._role} may not say {said.act} in {self._phase.name}")
        seq = self._next_seq
        stamp = timestamp_ms if said.timestamp_ms is None else said.timestamp_ms
        message = encode(Packet(said.type, said.priority, seq, stamp, said.payload, said.wants_ack))
        if said.wants_ack:
            self._awaited[seq] = self._kept.enter(said)
        self._next_seq = (seq + 1) % SEQS
        self._sent[said.type.name.lower()] += 1
        self._phase = phases.after(self._phase, self._role, said.act)
        return message

    # Liveness

    def heartbeat(self, *, now_s: float) -> Outgoing:
        """A heartbeat of our own; the next is due `heartbeat_every_s` from now."""
        self._liveness.ask(now_s)
        return outgoing.heartbeat()

    def heartbeat_due(self, now_s: float) -> bool:
        """Whether it is time to send one."""
        return self._liveness.is_due(now_s)

    def silence_s(self, now_s: float) -> float:
        """How long nothing came from the peer."""
        return self._liveness.silence_s(now_s)

    def check_alive(self, now_s: float) -> None:
        """A peer silent for `heartbeat_timeout_s` is gone: a `RemoteProtocolError`."""
        if self._liveness.is_over(now_s):
            raise RemoteProtocolError(Fault.SILENT, f"nothing came for {self.silence_s(now_s):.1f} s")

    def next_deadline_s(self) -> float:
        """When `heartbeat_due` or `check_alive` will have something to say, if nothing comes before."""
        return self._liveness.next_deadline_s()


def _audio(packet: Packet, payload: bytes) -> AudioReceived:
    if not math.isfinite(packet.timestamp_ms):
        raise RefusedPacketError("bad_timestamp", "the timestamp of audio must be a finite number")
    return AudioReceived(packet.seq, packet.timestamp_ms, payload)
