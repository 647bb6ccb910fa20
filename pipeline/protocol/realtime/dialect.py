"""The server's end of one Realtime connection.

`session.created` is sent once the session has a lane, and audio before it is not processed. From then on a
response is open while the model speaks, and from `response.create` on. An event that cannot be honoured is
answered with `error`, and the session goes on.
"""

import base64
import enum
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from pipeline.protocol.dialect import ConnectionParameters, Message
from pipeline.protocol.events import (
    Answered,
    EncodedAudioReceived,
    Event,
    Ignored,
    InputCleared,
    InputEnded,
    SessionChanged,
)
from pipeline.protocol.faults import LocalProtocolError
from pipeline.protocol.metadata import Configure, ConnectionEstablished, ErrorNotice, Metadata, Ready
from pipeline.protocol.openai_events import (
    DEFAULT_FORMAT,
    InvalidEventError,
    format_fields,
    has_persona,
    silence,
)
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType, Priority
from pipeline.protocol.realtime import client_events
from pipeline.protocol.realtime.client_events import (
    Append,
    CancelResponse,
    Clear,
    ClientEvent,
    Commit,
    CreateResponse,
    ResponseField,
    Truncate,
    Update,
)
from pipeline.protocol.realtime.conversation import TurnConversation
from pipeline.protocol.realtime.loudness import is_loud
from pipeline.protocol.realtime.responses import Event as ServerEvent
from pipeline.protocol.realtime.responses import Response
from pipeline.protocol.realtime.session_update import Change, read_change
from pipeline.protocol.single_connection import SingleConnection
from pipeline.protocol.text_deltas import TextDeltas
from pipeline.units import FRAME_MS

BUFFER_S: Final = 20.0  # audio that a client may send ahead of real time
RESPONSE_WAIT_MS: Final = 10_000  # of the session's audio, in which the model may begin to speak
ITEMS_KNOWN: Final = 64  # the newest, which can be truncated
_SAMPLE_BYTES: Final = {"pcm16": 2, "mulaw": 1, "alaw": 1}
# Refusals of things that a client asked for; any other error is the server's.
_CLIENT_ERRORS: Final = frozenset({"audio_refused", "too_big", "bad_frame", "silent", "idle"})


class _Turn(enum.Enum):
    """The user's: none yet, or its audio was cleared; the user speaks; the client has ended it."""

    NONE = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()


class RealtimeDialect(SingleConnection):
    """One Realtime session, which ends with its connection."""

    name: ClassVar = "realtime"
    input_buffer_s: ClassVar = BUFFER_S
    request: ClassVar[Configure | None] = None
    unsupported: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: ConnectionParameters) -> None:
        super().__init__()
        self.lifetime_s = parameters.lifetime_s
        self.input_format = self.output_format = DEFAULT_FORMAT
        self._expires_at = int(parameters.wall_clock_s + parameters.lifetime_s)
        self._voices = parameters.voices
        self._established: ConnectionEstablished | None = None
        self._created = False  # session.created was sent
        self._persona = Configure()  # what the session has
        self._asked: tuple[Configure, Update] | None = None  # what it is to have, and who asked for it
        self._not_applied: set[str] = set()  # what was asked for in vain, and logged
        self._has_audio = False  # audio came or was sent: the formats are fixed
        self._waiting_ms = 0.0  # of audio that was received and not answered
        self._turn = _Turn.NONE
        self._answer_by_ms = 0  # of the session's audio: until then an answer is awaited
        self._position_ms = 0  # of the audio that was answered
        self._conversation = TurnConversation(
            self._new_name, lambda: self.output_format, lambda: self._waiting_ms > 0
        )
        self._text = TextDeltas()
        self._numbers = 0

    @property
    def wants_silence(self) -> bool:
        """Whether the session goes on while nothing comes from the client: an answer is awaited."""
        awaited = self._conversation.response is not None or self._position_ms < self._answer_by_ms
        return self._turn is _Turn.ENDED and awaited

    # Receiving

    def receive(self, message: Message, *, now_s: float) -> tuple[Event, tuple[OutgoingPacket, ...]]:  # noqa: ARG002
        """The event that one message means, and the replies. No message breaks the protocol.

        Raises:
            LocalProtocolError: the conversation was closed.
        """
        self._check_open("received")
        try:
            event = client_events.decode(message)
            self._counters.received[event.TYPE] += 1
            return self._handle(event)
        except InvalidEventError as error:
            return Answered(), (self._refused(error),)

    def _refused(self, error: InvalidEventError) -> OutgoingPacket:
        self._counters.refused[error.code] += 1
        return _packet("error", None, **_error_fields(error))

    def _handle(self, event: ClientEvent) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        result: Event
        replies: tuple[OutgoingPacket, ...] = ()
        match event:
            case Append():
                result = self._append(event)
            case Update():
                result, replies = self._update(event)
            case Commit():
                result, replies = self._commit(event)
            case Clear():
                self._waiting_ms, self._conversation.has_user_audio = 0.0, False
                self._turn = _Turn.NONE if self._turn is _Turn.OPEN else self._turn
                result, replies = InputCleared(), (_packet("input_audio_buffer.cleared"),)
            case CreateResponse():
                field = event.response or ResponseField()
                _refuse_what_no_model_has(field, event.event_id)
                self._end_turn()
                result, replies = InputEnded(b""), (_packet(event.TYPE, event, metadata=field.metadata),)
            case CancelResponse():
                result, replies = Answered(), (_packet(event.TYPE, event, response_id=event.response_id),)
            case Truncate():
                position = {"item_id": event.item_id, "content_index": event.content_index}
                position["audio_end_ms"] = event.audio_end_ms
                result, replies = Answered(), (_packet(event.TYPE, event, **position),)
        return result, replies

    def _append(self, event: Append) -> Event:
        if not self._created:
            self._counters.ignored["not_ready"] += 1
            return Ignored("not_ready")
        self._has_audio, self._turn = True, _Turn.OPEN
        sample_bytes = _SAMPLE_BYTES[self.input_format.encoding]
        appended_ms = 1000 * len(event.audio) / (self.input_format.rate_hz * sample_bytes)
        self._waiting_ms = min(self._waiting_ms + appended_ms, 1000 * BUFFER_S)
        self._conversation.has_user_audio = True
        return EncodedAudioReceived((event.audio,))

    def _update(self, event: Update) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        change = read_change(event, self._voices)
        formats = (
            change.input_format or self.input_format,
            change.output_format or self.output_format,
        )
        if self._has_audio and formats != (self.input_format, self.output_format):
            raise InvalidEventError(
                "invalid_value",
                "the audio formats are fixed once there is audio",
                param="session.audio",
                event_id=event.event_id,
            )
        self.input_format, self.output_format = formats
        unsupported = tuple(name for name in change.not_applied if name not in self._not_applied)
        self._not_applied.update(unsupported)
        return SessionChanged(self._ask(change, event), unsupported), self._updated()

    def _ask(self, change: Change, event: Update) -> Configure | None:
        """The voice and the role that the session has to be asked for; None where they are on their way."""
        asked = Configure() if self._asked is None else self._asked[0]
        voice = asked.voice if change.voice is None else change.voice
        role = asked.role if change.role is None else change.role
        self._asked = (Configure(voice=voice, role=role), event)
        is_new = self._asked[0] != asked and not (
            self._created and has_persona(self._persona, self._asked[0])
        )
        return Configure(voice=change.voice, role=change.role) if is_new else None

    def _updated(self) -> tuple[OutgoingPacket, ...]:
        """`session.updated`, once the session has what was asked for."""
        if self._asked is None or not self._created or not has_persona(self._persona, self._asked[0]):
            return ()
        event, self._asked = self._asked[1], None
        return (_packet("session.updated", event),)

    def _commit(self, event: Commit) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        """The user has finished speaking, also where the model has answered to all of it already."""
        if self._conversation.has_user_audio:
            self._conversation.has_user_audio = False
            reply = _packet(event.TYPE, event)
        else:
            why = "there is no audio that was not committed"
            error = InvalidEventError("input_audio_buffer_commit_empty", why, event_id=event.event_id)
            if self._turn is not _Turn.OPEN:
                raise error
            reply = self._refused(error)
        self._end_turn()
        sample_bytes = _SAMPLE_BYTES[self.input_format.encoding]
        size = self.input_format.rate_hz * FRAME_MS // 1000 * sample_bytes
        return InputEnded(silence(self.input_format, size)), (reply,)

    def _end_turn(self) -> None:
        """The user has finished speaking; what was appended may still be on its way to the model."""
        self._turn = _Turn.ENDED
        self._answer_by_ms = self._position_ms + int(self._waiting_ms) + RESPONSE_WAIT_MS

    # Sending

    def messages(self, packet: OutgoingPacket, *, timestamp_ms: float) -> tuple[str, ...]:  # noqa: ARG002
        """The events for one packet; reports and ACKs are none.

        Raises:
            LocalProtocolError: the conversation was closed.
        """
        self._check_open("sent")
        match packet.type:
            case PacketType.AUDIO_CHUNK:
                return self._audio(bytes(packet.payload))
            case PacketType.TEXT_PARTIAL:
                return self._encode_all(
                    self._conversation.words(self._text.partial(bytes(packet.payload).decode()))
                )
            case PacketType.TEXT_FINAL:
                words = self._conversation.words(self._text.final(bytes(packet.payload).decode()))
                return self._encode_all(words + self._conversation.end_words())
            case PacketType.METADATA if packet.value is not None:
                return self._notice(packet.value)
            case PacketType.METADATA:
                return self._reply(packet.kind, json.loads(bytes(packet.payload)))
            case _:
                return ()

    def farewell(self, cause: str) -> tuple[str, ...]:
        """The end of the response, and why the session ends where the API has a name for it."""
        events = self._encode_all(self._conversation.close())
        if cause == "expired":
            error = {"type": "invalid_request_error", "code": "session_expired"}
            message = f"The session has lasted for {self.lifetime_s:g} s."
            events += (self._encode("error", {"error": {**error, "message": message}}),)
        return events

    def _audio(self, data: bytes) -> tuple[str, ...]:
        self._has_audio = True
        self._position_ms += FRAME_MS
        self._waiting_ms = max(0.0, self._waiting_ms - FRAME_MS)
        conversation = self._conversation
        events = self._encode_all(conversation.begin_frame(loud=is_loud(data, self.output_format)))
        if conversation.speaking is not None:
            events += (self._sound(conversation.speaking, data),)
        elif self._position_ms >= self._answer_by_ms:
            events += self._encode_all(conversation.give_up())
        return events + self._encode_all(conversation.end_frame())

    def _reply(self, kind: str, fields: dict[str, Any]) -> tuple[str, ...]:
        """The reply to an event of the client; responses change here, where the order of events is fixed."""
        event_id = fields.pop("client_event_id", None)
        try:
            match kind:
                case Commit.TYPE:
                    events = self._conversation.commit()
                case CreateResponse.TYPE:
                    events = self._conversation.create(fields["metadata"], event_id)
                case CancelResponse.TYPE:
                    events = self._conversation.cancel(fields["response_id"], event_id)
                case Truncate.TYPE:
                    events = self._conversation.truncate(fields, event_id)
                case "session.updated":
                    events = [(kind, {"session": self._session()})]
                case _:
                    events = [(kind, fields)]
        except InvalidEventError as error:
            self._counters.refused[error.code] += 1
            events = [("error", _error_fields(error))]
        return self._encode_all(events)

    def _notice(self, value: Metadata) -> tuple[str, ...]:
        match value:
            case ConnectionEstablished():
                self._established = value
                return ()
            case Ready(voice, role):
                return self._ready(Configure(voice=voice, role=role))
            case ErrorNotice("prompt_refused", message):
                event_id = None if self._asked is None else self._asked[1].event_id
                self._asked = None
                param = "session.instructions or session.audio.output.voice"
                error = InvalidEventError("invalid_value", message, param=param, event_id=event_id)
                return (self._encode("error", _error_fields(error)),)
            case ErrorNotice(code, message):
                kind = "invalid_request_error" if code in _CLIENT_ERRORS else "server_error"
                return (self._encode("error", {"error": {"type": kind, "code": code, "message": message}}),)
            case _:
                return ()

    def _ready(self, persona: Configure) -> tuple[str, ...]:
        """The session has a lane, and begins with this voice and role."""
        self._persona = persona
        events: tuple[str, ...] = ()
        if not self._created:
            self._created = True
            events = (self._encode("session.created", {"session": self._session()}),)
        return events + tuple(
            self._encode(packet.kind, {"session": self._session()}) for packet in self._updated()
        )

    def _session(self) -> dict[str, Any]:
        """The session as it is, whatever was asked for."""
        established = self._established
        assert established is not None
        voice = {} if self._persona.voice is None else {"voice": self._persona.voice}
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": established.session_id,
            "model": established.model.name,
            "expires_at": self._expires_at,
            "output_modalities": ["audio"],
            "instructions": self._persona.role or "",
            "tools": [],
            "tool_choice": "none",
            "max_output_tokens": "inf",
            "audio": {
                "input": {
                    "format": format_fields(self.input_format),
                    "transcription": None,
                    "noise_reduction": None,
                    # The model decides when to speak and when to fall silent.
                    "turn_detection": {
                        "type": "semantic_vad",
                        "create_response": True,
                        "interrupt_response": True,
                    },
                },
                "output": {"format": format_fields(self.output_format), **voice},
            },
        }

    def _sound(self, response: Response, data: bytes) -> str:
        self._counters.sent["response.output_audio.delta"] += 1
        return (
            f'{{"type":"response.output_audio.delta","event_id":"event_{self._new_name()}",'
            f'"response_id":"{response.id}","item_id":"{response.item_id}","output_index":0,'
            f'"content_index":0,"delta":"{base64.b64encode(data).decode()}"}}'
        )

    def _encode_all(self, events: Iterable[ServerEvent]) -> tuple[str, ...]:
        return tuple(self._encode(kind, fields) for kind, fields in events)

    def _encode(self, kind: str, fields: Mapping[str, Any]) -> str:
        self._counters.sent[kind] += 1
        event = {"type": kind, "event_id": f"event_{self._new_name()}", **fields}
        return json.dumps(event, separators=(",", ":"))

    def _new_name(self) -> str:
        """A name for the next event, item or response."""
        self._numbers += 1
        return (
            str(self._numbers)
            if self._established is None
            else f"{self._established.session_id}_{self._numbers}"
        )

    # Liveness

    def check_alive(self, now_s: float) -> None:
        """A client may be silent: one that is lost does not answer pings, and one that is idle is ended."""

    def heartbeat_due(self, now_s: float) -> bool:  # noqa: ARG002
        """Never: the API has none."""
        return False

    def heartbeat(self, *, now_s: float) -> OutgoingPacket:
        """The API has none."""
        raise LocalProtocolError(f"the Realtime API has no heartbeats ({now_s})")

    def next_deadline_s(self) -> float:
        """There is none."""
        return float("inf")


def _refuse_what_no_model_has(field: ResponseField, event_id: str | None) -> None:
    """Name the first thing that the response would have to ignore."""
    refused = {
        "response.instructions": bool((field.instructions or "").strip()),
        "response.input": bool(field.input),
        "response.tools": bool(field.tools),
        "response.conversation": field.conversation not in (None, "auto"),
        "response.output_modalities": field.output_modalities is not None
        and "audio" not in field.output_modalities,
    }
    for param, is_asked in refused.items():
        if is_asked:
            raise InvalidEventError(
                "unsupported_parameter",
                f"{param}: the model on this server says what it wants to say, aloud",
                param=param,
                event_id=event_id,
            )


def _error_fields(error: InvalidEventError) -> dict[str, Any]:
    return {"error": {**error.fields(), "event_id": error.event_id}}


def _packet(kind: str, event: ClientEvent | None = None, **fields: object) -> OutgoingPacket:
    """A reply to an event; it is put into words when it is written."""
    if event is not None and event.event_id is not None:
        fields["client_event_id"] = event.event_id
    return OutgoingPacket(kind, PacketType.METADATA, Priority.HIGH, json.dumps(fields).encode())
