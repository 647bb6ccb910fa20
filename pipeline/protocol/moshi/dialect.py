"""The server's end of one connection of a Moshi or PersonaPlex client.

A message is one byte that says what it is, and its content. The handshake is sent when the session
has a lane; until then, and while it is put back, pings show that the server is alive. These clients cannot
read errors in any form that they all know, so an error is message 5, which they ignore or show.
"""

import json
from typing import ClassVar, Final

from pipeline.protocol import outgoing
from pipeline.protocol.dialect import ConnectionParameters, Message
from pipeline.protocol.events import Answered, EncodedAudioReceived, Event, Ignored, IgnoredReason, Refused
from pipeline.protocol.faults import Fault, RemoteProtocolError
from pipeline.protocol.metadata import Dropped, ErrorNotice, Queued, Ready
from pipeline.protocol.moshi.ogg import OggError, OggReader, OggWriter
from pipeline.protocol.moshi.query import Query
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType
from pipeline.protocol.single_connection import SingleConnection
from pipeline.protocol.text_deltas import TextDeltas
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ, AudioFormat

HANDSHAKE: Final = 0
AUDIO: Final = 1
TEXT: Final = 2
JSON: Final = 4
ERROR: Final = 5
PING: Final = 6
_NAMES: Final = {0: "handshake", 1: "audio", 2: "text", 3: "control", 4: "json", 5: "error", 6: "ping"}
_LOOKAHEAD_SAMPLES: Final = 156  # of libopus at 24 kHz, application VOIP


class MoshiDialect(SingleConnection):
    """One session, which ends with its connection."""

    name: ClassVar = "moshi"
    lifetime_s: ClassVar = float("inf")
    input_format: ClassVar = AudioFormat("opus", SAMPLE_RATE_HZ)
    output_format: ClassVar = AudioFormat("opus", SAMPLE_RATE_HZ)
    input_buffer_s: ClassVar = 0.0
    wants_silence: ClassVar = False

    def __init__(self, parameters: ConnectionParameters, query: Query) -> None:
        super().__init__()
        self.request = query.request
        self.unsupported = query.prompts
        self._every_s = parameters.heartbeat_every_s
        self._ping_s = parameters.now_s
        self._reader = OggReader()
        self._writer = OggWriter(_LOOKAHEAD_SAMPLES)
        self._text = TextDeltas()
        self._greeted = False  # the handshake was sent
        self._runs = False  # the session has a lane, and was not put back
        self._has_sound = False  # the headers of the stream were sent

    # Receiving

    def receive(self, message: Message, *, now_s: float) -> tuple[Event, tuple[OutgoingPacket, ...]]:  # noqa: ARG002
        """The event that one message means; there are no replies.

        Raises:
            RemoteProtocolError: a text frame, or an empty message.
            LocalProtocolError: the conversation was closed.
        """
        self._check_open("received")
        if isinstance(message, str):
            raise RemoteProtocolError(Fault.TEXT_FRAME, "messages travel in binary frames")
        if not message:
            raise RemoteProtocolError(Fault.EMPTY_MESSAGE, "a message has at least one byte")
        kind = message[0]
        self._counters.received[_NAMES.get(kind, "unknown")] += 1
        if kind != AUDIO:
            return self._ignore("unknown_packet"), ()
        try:
            packets = self._reader.push(message[1:])
        except OggError as error:
            self._counters.refused["audio_refused"] += 1
            return Refused("audio_refused", str(error)), ()
        if not packets:
            return Answered(), ()
        if not self._runs:
            return self._ignore("not_ready"), ()
        return EncodedAudioReceived(tuple(packets)), ()

    def _ignore(self, reason: IgnoredReason) -> Ignored:
        self._counters.ignored[reason] += 1
        return Ignored(reason)

    # Sending

    def messages(self, packet: OutgoingPacket, *, timestamp_ms: float) -> tuple[bytes, ...]:  # noqa: ARG002
        """The messages for one packet; most notices are none.

        Raises:
            LocalProtocolError: the conversation was closed.
        """
        self._check_open("sent")
        match packet.type:
            case PacketType.AUDIO_CHUNK:
                return (self._audio(bytes(packet.payload)),)
            case PacketType.TEXT_PARTIAL:
                return self._words(self._text.partial(bytes(packet.payload).decode()))
            case PacketType.TEXT_FINAL:
                return self._words(self._text.final(bytes(packet.payload).decode()))
            case PacketType.HEARTBEAT:
                return (self._message(PING, b""),)
            case _:
                return self._notice(packet)

    def farewell(self, cause: str) -> tuple[bytes, ...]:  # noqa: ARG002 - the close code says it
        """Nothing: there is no message for the end."""
        return ()

    def _audio(self, packet: bytes) -> bytes:
        page = self._writer.page(packet, FRAME_SAMPLES)
        if self._has_sound:
            return self._message(AUDIO, page)
        self._has_sound = True
        return self._message(AUDIO, self._writer.headers() + page)

    def _words(self, delta: str) -> tuple[bytes, ...]:
        return (self._message(TEXT, delta.encode()),) if delta else ()

    def _notice(self, packet: OutgoingPacket) -> tuple[bytes, ...]:
        match packet.value:
            case Ready():
                self._runs = True
                return self._greet()
            case Queued():
                self._runs = False
                return (self._message(PING, b""),)
            case Dropped(what, count):
                content: dict[str, object] = {"type": "dropped", "what": what, "count": count}
                return (self._message(JSON, json.dumps(content).encode()),)
            case ErrorNotice(_, message):
                return (self._message(ERROR, message.encode()),)
            case _:
                return ()

    def _greet(self) -> tuple[bytes, ...]:
        """The handshake, once, and what the client asked for in vain."""
        if self._greeted:
            return ()
        self._greeted = True
        greeting = self._message(HANDSHAKE, b"")
        if not self.unsupported:
            return (greeting,)
        why = "the model on this server takes no prompts; the conversation goes on without"
        content = {"type": "unsupported", "parameters": list(self.unsupported), "message": why}
        return greeting, self._message(JSON, json.dumps(content).encode())

    def _message(self, kind: int, content: bytes) -> bytes:
        self._counters.sent[_NAMES[kind]] += 1
        return bytes([kind]) + content

    # Liveness

    def check_alive(self, now_s: float) -> None:
        """A client may be silent: one that has been for too long is ended as idle."""

    def heartbeat_due(self, now_s: float) -> bool:
        """Whether it is time for a ping; while audio is answered, none is needed and the turn is skipped."""
        if now_s < self.next_deadline_s():
            return False
        if self._runs:
            self._ping_s = now_s
        return not self._runs

    def heartbeat(self, *, now_s: float) -> OutgoingPacket:
        """A ping."""
        self._ping_s = now_s
        return outgoing.heartbeat()

    def next_deadline_s(self) -> float:
        """When the next ping may be due."""
        return self._ping_s + self._every_s
