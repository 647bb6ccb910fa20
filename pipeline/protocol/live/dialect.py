"""The server's end of one Live connection.

    STARTING ──session.start──▶ STARTED ──session.close──▶ CLOSING

`session.started` is sent once the client has sent `session.start` and the session has a lane,
whichever comes last. An event that cannot be honoured is answered with `error`, and the session goes on.
"""

import base64
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final

from pipeline.protocol.dialect import ConnectionParameters, Message
from pipeline.protocol.events import Answered, EncodedAudioReceived, Event, Ignored, MetadataReceived
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.live import client_events
from pipeline.protocol.live.client_events import (
    Append,
    AppendInstructions,
    ClientEvent,
    Close,
    Mute,
    SessionField,
    Start,
    Unmute,
    Update,
)
from pipeline.protocol.metadata import (
    ROLE_MAX,
    VOICE_MAX,
    Bye,
    Configure,
    ConnectionEstablished,
    Draining,
    Dropped,
    ErrorNotice,
    Metadata,
    Queued,
    Ready,
    Stats,
)
from pipeline.protocol.openai_events import (
    DEFAULT_FORMAT,
    OPENAI_VOICES,
    InvalidEventError,
    format_fields,
    has_persona,
    silence,
)
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType, Priority
from pipeline.protocol.single_connection import SingleConnection
from pipeline.protocol.text_deltas import TextDeltas
from pipeline.units import FRAME_MS, AudioFormat

USAGE_EVERY_S: Final = 10
_MS: Final = 1000
_CLOSE_REASONS: Final[Mapping[str, str]] = {
    "bye": "close_requested",
    "hangup": "close_requested",
    "expired": "expired",
    "idle": "expired",
}
_LOST: Final = "connection_lost"  # this end stopped: what the API calls an upstream disconnection
# Refusals of things that a client asked for; any other error is the server's.
_CLIENT_ERRORS: Final = frozenset({"audio_refused", "too_big", "bad_frame", "silent", "idle"})


class Phase(Enum):
    """How far the conversation has come."""

    STARTING = "connected; session.start was not received"
    STARTED = "session.start was received"
    CLOSING = "session.close was received"


class LiveDialect(SingleConnection):
    """One Live session, which ends with its connection."""

    name: ClassVar = "live"
    input_buffer_s: ClassVar = 0.0
    wants_silence: ClassVar = False
    request: ClassVar[Configure | None] = None
    unsupported: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: ConnectionParameters) -> None:
        super().__init__()
        self.lifetime_s = parameters.lifetime_s
        self.input_format = self.output_format = DEFAULT_FORMAT
        self._expires_at = int(parameters.wall_clock_s + parameters.lifetime_s)
        self._start_by_s = parameters.now_s + parameters.heartbeat_timeout_s
        self._silent_s = parameters.heartbeat_timeout_s
        self._phase = Phase.STARTING
        self._established: ConnectionEstablished | None = None
        self._start: Start | None = None
        self._voices = parameters.voices
        self._persona = Configure()  # what the session is to begin with
        self._present = Configure()  # what it begins with
        self._voice_not_applied: str | None = None
        self._has_lane = False
        self._announced = False  # session.started was sent
        self._muted = False
        self._text = TextDeltas()
        self._text_end_ms = 0
        self._position_ms = 0  # of the session's timeline, which is the audio that was answered
        self._usage_s = 0
        self._events = 0
        self._close_event_id: str | None = None

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
            if self._phase is Phase.CLOSING:
                self._counters.ignored["after_bye"] += 1
                return Ignored("after_bye"), ()
            return self._handle(event)
        except InvalidEventError as error:
            self._counters.refused[error.code] += 1
            return Answered(), (_error(error),)

    def _handle(self, event: ClientEvent) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        match event:
            case Start():
                return self._begin(event)
            case Close():
                self._phase = Phase.CLOSING
                self._close_event_id = event.event_id
                return MetadataReceived(Bye()), ()
            case _ if not self._announced:
                raise InvalidEventError(
                    "session_not_started",
                    "send session.start first, and wait for session.started",
                    event_id=event.event_id,
                )
            case Append():
                return EncodedAudioReceived((self._heard(event.audio),)), ()
            case Mute() | Unmute():
                self._muted = isinstance(event, Mute)
                kind = "session.input_audio.muted" if self._muted else "session.input_audio.unmuted"
                return Answered(), (_reply(kind, event.event_id),)
            case Update():
                _refuse_delegation(event.session.delegation, event.session.triggers, event.event_id)
                return Answered(), (_reply("session.updated", event.event_id),)
            case AppendInstructions():
                raise InvalidEventError(
                    "unsupported_event",
                    f"{event.TYPE}: the model on this server cannot be given text while it runs",
                    param="type",
                    event_id=event.event_id,
                )

    def _begin(self, start: Start) -> tuple[Event, tuple[OutgoingPacket, ...]]:
        if self._start is not None:
            raise InvalidEventError(
                "session_already_started", "the session has been started", event_id=start.event_id
            )
        audio_format = _audio_format(start.session, start.event_id)
        _refuse_what_no_model_has(start.session, start.event_id, self._voices)
        self._persona, self._voice_not_applied = _persona(start.session, start.event_id, self._voices)
        self.input_format = self.output_format = audio_format
        self._start = start
        self._phase = Phase.STARTED
        if self._persona != Configure():
            return MetadataReceived(self._persona), ()  # the session says when it has them
        return Answered(), (_reply("session.started", start.event_id),) if self._has_lane else ()

    def _heard(self, audio: bytes) -> bytes:
        return silence(self.input_format, len(audio)) if self._muted else audio

    # Sending

    def messages(self, packet: OutgoingPacket, *, timestamp_ms: float) -> tuple[str, ...]:  # noqa: ARG002
        """The events for one packet; reports and ACKs are none.

        Raises:
            LocalProtocolError: the conversation was closed.
        """
        self._check_open("sent")
        match packet.type:
            case PacketType.AUDIO_CHUNK:
                self._position_ms = int(packet.timestamp_ms or 0)
                return (self._audio(bytes(packet.payload)),)
            case PacketType.TEXT_PARTIAL:
                return self._transcript(self._text.partial(bytes(packet.payload).decode()))
            case PacketType.TEXT_FINAL:
                return self._transcript(self._text.final(bytes(packet.payload).decode()))
            case PacketType.METADATA if packet.value is not None:
                return self._notice(packet.value)
            case PacketType.METADATA:
                return self._answer(packet.kind, json.loads(bytes(packet.payload)))
            case _:
                return ()

    def farewell(self, cause: str) -> tuple[str, ...]:
        """`session.closed`, if the session was started."""
        if not self._announced:
            return ()
        fields = {
            "reason": _CLOSE_REASONS.get(cause, _LOST),
            "session": self._session(),
            "usage": {"seconds": self._seconds()},
            **_client_event_id(self._close_event_id),
        }
        return (self._encode("session.closed", fields),)

    def _notice(self, value: Metadata) -> tuple[str, ...]:
        events: tuple[str, ...] = ()
        match value:
            case ConnectionEstablished():
                self._established = value
            case Ready(voice, role):
                events = self._ready(voice, role)
            case Stats():
                events = self._usage()
            case Queued(position):
                message = f"waiting for a lane, position {position} in the queue; audio is not processed"
                events = (self._info("queued", message),)
            case Dropped(what, count):
                side = "from the client" if what == "audio" else "for the client"
                events = (self._info("dropped", f"{count} frames of audio {side} were dropped under load"),)
            case Draining():
                events = (self._info("draining", "the server is shutting down"),)
            case ErrorNotice("prompt_refused", message):
                events = self._persona_refused(message)
            case ErrorNotice(code, message):
                events = (self._refusal(code, message),)
        return events

    def _refusal(self, code: str, message: str) -> str:
        kind = "invalid_request_error" if code in _CLIENT_ERRORS else "server_error"
        return self._encode("error", {"error": {"type": kind, "code": code, "message": message}})

    def _ready(self, voice: str | None, role: str | None) -> tuple[str, ...]:
        if self._announced:
            return (self._info("ready", "the session has a lane again; audio is processed"),)
        self._has_lane = True
        self._present = Configure(voice=voice, role=role)
        if self._start is None or not has_persona(self._present, self._persona):
            return ()
        return self._answer("session.started", _client_event_id(self._start.event_id))

    def _started(self, fields: dict[str, Any]) -> tuple[str, ...]:
        if self._announced:
            return ()
        self._announced = True
        events = (self._encode("session.started", {"session": self._session(), **fields}),)
        if self._voice_not_applied is None:
            return events
        message = f"the model on this server has no voice {self._voice_not_applied}, and speaks in its own"
        return (*events, self._info("voice_not_applied", message))

    def _persona_refused(self, message: str) -> tuple[str, ...]:
        """The session did not start; the client may start it again with something else.

        What the client did not ask for is the server's default, without which it starts.
        """
        if self._announced:
            return (self._refusal("prompt_refused", message),)
        if self._persona == Configure():
            return (self._info("prompt_refused", message),)
        event_id = None if self._start is None else self._start.event_id
        self._start, self._persona = None, Configure()
        param = "session.instructions or session.audio.output.voice"
        error = InvalidEventError("invalid_value", message, param=param, event_id=event_id)
        return self._answer("error", json.loads(bytes(_error(error).payload)))

    def _usage(self) -> tuple[str, ...]:
        if self._seconds() < self._usage_s + USAGE_EVERY_S:
            return ()
        self._usage_s = self._seconds()
        return (self._encode("session.usage.updated", {"usage": {"seconds": self._usage_s}}),)

    def _seconds(self) -> int:
        return self._position_ms // _MS

    def _audio(self, data: bytes) -> str:
        self._counters.sent["session.output_audio.delta"] += 1
        return f'{{"type":"session.output_audio.delta","delta":"{base64.b64encode(data).decode()}"}}'

    def _transcript(self, delta: str) -> tuple[str, ...]:
        if not delta:
            return ()
        start_ms = max(self._text_end_ms, self._position_ms - FRAME_MS)
        self._text_end_ms = max(start_ms, self._position_ms)
        fields = {"delta": delta, "start_ms": start_ms, "end_ms": self._text_end_ms}
        return (self._encode("session.output_transcript.delta", fields),)

    def _info(self, code: str, message: str) -> str:
        return self._encode("info", {"code": code, "message": message})

    def _answer(self, kind: str, fields: dict[str, Any]) -> tuple[str, ...]:
        if kind == "session.started":
            return self._started(fields)
        if kind == "session.updated":
            fields = {"session": self._session(), **fields}
        return (self._encode(kind, fields),)

    def _session(self) -> dict[str, Any]:
        """The session as it is, with what the server has chosen."""
        established, start = self._established, self._start
        assert established is not None
        assert start is not None
        return {
            "id": established.session_id,
            "model": established.model.name,
            "status": "active",
            "expires_at": self._expires_at,
            "audio": {
                "format": format_fields(self.input_format),
                **({} if self._present.voice is None else {"output": {"voice": self._present.voice}}),
            },
            **({} if self._present.role is None else {"instructions": self._present.role}),
            "delegation": {"type": "client"},
            "input": [],
            "triggers": [],
            "store": False,
            **(
                {}
                if start.session.safety_identifier is None
                else {"safety_identifier": start.session.safety_identifier}
            ),
        }

    def _encode(self, kind: str, fields: Mapping[str, Any]) -> str:
        self._events += 1
        self._counters.sent[kind] += 1
        event_id = f"event_{self._events}"
        if self._established is not None:
            event_id = f"event_{self._established.session_id}_{self._events}"
        return json.dumps({"type": kind, "event_id": event_id, **fields}, separators=(",", ":"))

    # Liveness

    def check_alive(self, now_s: float) -> None:
        """Raise a `RemoteProtocolError` if the client has not sent `session.start` in time.

        After that a client may be silent: the session advances with its audio, and one without any is
        ended when it has been idle for too long.
        """
        if now_s >= self.next_deadline_s():
            raise RemoteProtocolError(Fault.SILENT, f"no session.start within {self._silent_s:g} s")

    def heartbeat_due(self, now_s: float) -> bool:  # noqa: ARG002
        """Never: the API has none."""
        return False

    def heartbeat(self, *, now_s: float) -> OutgoingPacket:
        """The API has none."""
        raise LocalProtocolError(f"the Live API has no heartbeats ({now_s})")

    def next_deadline_s(self) -> float:
        """When `session.start` has to be there."""
        return self._start_by_s if self._phase is Phase.STARTING and not self._closed else float("inf")


def _audio_format(session: SessionField, event_id: str | None) -> AudioFormat:
    field = None if session.audio is None else session.audio.format
    return DEFAULT_FORMAT if field is None else field.resolve("session.audio.format", event_id)


def _voice(session: SessionField) -> str | None:
    """The voice by its name, or the id in an object."""
    voice = session.audio and session.audio.output and session.audio.output.get("voice")
    name = voice.get("id") if isinstance(voice, dict) else voice
    return None if not name else str(name)


def _persona(
    session: SessionField, event_id: str | None, voices: tuple[str, ...] | None
) -> tuple[Configure, str | None]:
    """The voice and the role, blank is none; and a voice that is not applied.

    Clients name a voice of OpenAI's without having been asked to: that is no reason not to begin.
    """
    voice, not_applied = _voice(session), None
    if voice in OPENAI_VOICES and voice not in (voices or ()):
        voice, not_applied = None, voice
    persona = Configure(voice=voice, role=(session.instructions or "").strip() or None)
    for param, text, characters in (
        ("session.audio.output.voice", persona.voice, VOICE_MAX),
        ("session.instructions", persona.role, ROLE_MAX),
    ):
        if text is not None and len(text) > characters:
            why = f"{param} may have {characters} characters"
            raise InvalidEventError("invalid_value", why, param=param, event_id=event_id)
    return persona, not_applied


def _refuse_what_no_model_has(
    session: SessionField, event_id: str | None, voices: tuple[str, ...] | None
) -> None:
    """Name the first thing that the session would have to ignore."""
    _refuse_delegation(session.delegation, session.triggers, event_id)
    persona, _ = _persona(session, event_id, voices)
    refused = {
        "session.instructions": persona.role is not None and voices is None,
        "session.audio.output.voice": persona.voice is not None and voices is None,
        "session.input": bool(session.input),
        "session.store": bool(session.store),
        "session.client": bool(session.client),
    }
    what = {
        "session.instructions": "the model on this server takes no instructions",
        "session.audio.output.voice": "the model on this server has one voice; leave it out",
        "session.input": "the model on this server cannot be given a history",
        "session.store": "sessions are not stored",
        "session.client": "data channels belong to WebRTC, which this server does not speak",
    }
    for param, is_asked in refused.items():
        if is_asked:
            raise InvalidEventError("unsupported_parameter", what[param], param=param, event_id=event_id)


def _refuse_delegation(
    delegation: dict[str, Any] | None, triggers: tuple[Any, ...] | None, event_id: str | None
) -> None:
    if delegation is not None and delegation.get("type") != "client":
        raise InvalidEventError(
            "unsupported_parameter",
            "tasks can be delegated to the client only",
            param="session.delegation.type",
            event_id=event_id,
        )
    if triggers:
        raise InvalidEventError(
            "unsupported_parameter", "there are no triggers", param="session.triggers", event_id=event_id
        )


def _error(error: InvalidEventError) -> OutgoingPacket:
    answer = {
        "error": {**error.fields(), **_client_event_id(error.event_id)},
        **_client_event_id(error.event_id),
    }
    return _packet("error", answer)


def _reply(kind: str, event_id: str | None) -> OutgoingPacket:
    return _packet(kind, _client_event_id(event_id))


def _client_event_id(event_id: str | None) -> dict[str, str]:
    return {} if event_id is None else {"client_event_id": event_id}


def _packet(kind: str, fields: Mapping[str, Any]) -> OutgoingPacket:
    """An event in reply; what the session knows is added when it is written."""
    return OutgoingPacket(kind, PacketType.METADATA, Priority.HIGH, json.dumps(fields).encode())
