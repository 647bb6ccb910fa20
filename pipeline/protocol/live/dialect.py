"""The server's end of one Live connection.

    STARTING ──session.start──▶ STARTED ──session.close──▶ CLOSING
    any ──close──▶ CLOSED

`session.started` is sent once the client has sent `session.start` and the session has a lane,
whichever comes last. An event that cannot be honoured is answered with `error`, and the session goes on.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, Final

from pipeline.protocol.conversation import ConversationStatistics
from pipeline.protocol.dialect import ConnectionParameters, Message
from pipeline.protocol.events import Answered, EncodedAudioReceived, Event, Ignored, MetadataReceived
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.live import client_events
from pipeline.protocol.live.client_events import (
    Append,
    AppendInstructions,
    ClientEvent,
    Close,
    InvalidEventError,
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
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType, Priority
from pipeline.protocol.text_deltas import TextDeltas
from pipeline.units import FRAME_MS, AudioFormat

USAGE_EVERY_S: Final = 10
_MS: Final = 1000
_FORMATS: Final[Mapping[str, tuple[AudioFormat, ...]]] = {  # the first is the default
    "audio/pcm": (AudioFormat("pcm16", 24_000), AudioFormat("pcm16", 16_000)),
    "audio/pcmu": (AudioFormat("mulaw", 8_000),),
    "audio/pcma": (AudioFormat("alaw", 8_000),),
}
_SILENCE: Final[Mapping[str, bytes]] = {"pcm16": b"\x00", "mulaw": b"\xff", "alaw": b"\xd5"}
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
    CLOSED = "the connection is over"


class LiveDialect:
    """One Live session, which ends with its connection."""

    name: ClassVar = "live"
    resumable: ClassVar = False
    request: ClassVar[Configure | None] = None
    unsupported: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: ConnectionParameters) -> None:
        self.lifetime_s = parameters.lifetime_s
        self.audio_format = _FORMATS["audio/pcm"][0]
        self._expires_at = int(parameters.wall_clock_s + parameters.lifetime_s)
        self._start_by_s = parameters.now_s + parameters.heartbeat_timeout_s
        self._silent_s = parameters.heartbeat_timeout_s
        self._phase = Phase.STARTING
        self._established: ConnectionEstablished | None = None
        self._start: Start | None = None
        self._voices = parameters.voices
        self._persona = Configure()  # what the client asked for
        self._begins_with = Ready()  # with what the session begins
        self._has_lane = False
        self._announced = False  # session.started was sent
        self._muted = False
        self._text = TextDeltas()
        self._text_end_ms = 0
        self._position_ms = 0  # of the session's timeline, which is the audio that was answered
        self._usage_s = 0
        self._events = 0
        self._close_event_id: str | None = None
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()

    def statistics(self) -> ConversationStatistics:
        """The counters so far; unknown events count as one kind."""
        counters = (self._sent, self._received, self._ignored, self._refused)
        sent, received, ignored, refused = (MappingProxyType(dict(counter)) for counter in counters)
        return ConversationStatistics(sent, received, ignored, refused, unacked=0)

    def close(self) -> None:
        """The connection is over."""
        self._phase = Phase.CLOSED

    # Receiving

    def receive(self, message: Message, *, now_s: float) -> tuple[Event, tuple[OutgoingPacket, ...]]:  # noqa: ARG002
        """The event that one message means, and the replies. No message breaks the protocol.

        Raises:
            LocalProtocolError: the conversation was closed.
        """
        if self._phase is Phase.CLOSED:
            raise LocalProtocolError("the conversation is closed; nothing can be received")
        try:
            event = client_events.decode(message)
            self._received[event.TYPE] += 1
            if self._phase is Phase.CLOSING:
                self._ignored["after_bye"] += 1
                return Ignored("after_bye"), ()
            return self._handle(event)
        except InvalidEventError as error:
            self._refused[error.code] += 1
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
                return EncodedAudioReceived((self._heard(event.data()),)), ()
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
        _refuse_what_no_model_has(start.session, start.event_id, takes_persona=self._voices is not None)
        self._persona = _persona(start.session, start.event_id)
        self.audio_format = audio_format
        self._start = start
        self._phase = Phase.STARTED
        if self._persona != Configure():
            return MetadataReceived(self._persona), ()  # the session says when it has them
        if not self._has_lane:
            return Answered(), ()
        self._announced = True
        return Answered(), (_reply("session.started", start.event_id),)

    def _heard(self, audio: bytes) -> bytes:
        return _SILENCE[self.audio_format.encoding] * len(audio) if self._muted else audio

    # Sending

    def messages(self, packet: OutgoingPacket, *, timestamp_ms: float) -> tuple[str, ...]:  # noqa: ARG002
        """The events for one packet; reports and ACKs are none.

        Raises:
            LocalProtocolError: the conversation was closed.
        """
        if self._phase is Phase.CLOSED:
            raise LocalProtocolError("the conversation is closed; nothing can be sent")
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
                return (self._answer(packet.kind, json.loads(bytes(packet.payload))),)
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
            case Ready():
                events = self._ready(value)
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
                kind = "invalid_request_error" if code in _CLIENT_ERRORS else "server_error"
                events = (self._encode("error", {"error": {"type": kind, "code": code, "message": message}}),)
        return events

    def _ready(self, ready: Ready) -> tuple[str, ...]:
        if self._announced:
            return (self._info("ready", "the session has a lane again; audio is processed"),)
        self._has_lane, self._begins_with = True, ready
        if self._start is None or not self._has_persona(ready):
            return ()
        self._announced = True
        return (self._answer("session.started", _client_event_id(self._start.event_id)),)

    def _has_persona(self, ready: Ready) -> bool:
        """Whether it begins as was asked for; what was not is the server's default."""
        asked = self._persona
        return asked.voice in (None, ready.voice) and asked.role in (None, ready.role)

    def _persona_refused(self, message: str) -> tuple[str, ...]:
        """The session did not start; the client may start it again with something else.

        What the client did not ask for is the server's default, without which it starts.
        """
        if self._persona == Configure():
            return (self._info("prompt_refused", message),)
        event_id = None if self._start is None else self._start.event_id
        self._start, self._persona = None, Configure()
        param = "session.instructions or session.audio.output.voice"
        error = InvalidEventError("invalid_value", message, param=param, event_id=event_id)
        return (self._answer("error", json.loads(bytes(_error(error).payload))),)

    def _usage(self) -> tuple[str, ...]:
        if self._seconds() < self._usage_s + USAGE_EVERY_S:
            return ()
        self._usage_s = self._seconds()
        return (self._encode("session.usage.updated", {"usage": {"seconds": self._usage_s}}),)

    def _seconds(self) -> int:
        return self._position_ms // _MS

    def _audio(self, data: bytes) -> str:
        self._sent["session.output_audio.delta"] += 1
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

    def _answer(self, kind: str, fields: dict[str, Any]) -> str:
        if kind in ("session.started", "session.updated"):
            fields = {"session": self._session(), **fields}
        return self._encode(kind, fields)

    def _session(self) -> dict[str, Any]:
        """The session as it is, with what the server has chosen."""
        established, start, begins_with = self._established, self._start, self._begins_with
        assert established is not None
        assert start is not None
        return {
            "id": established.session_id,
            "model": established.model.name,
            "status": "active",
            "expires_at": self._expires_at,
            "audio": {
                "format": _format_field(self.audio_format),
                **({} if begins_with.voice is None else {"output": {"voice": begins_with.voice}}),
            },
            **({} if begins_with.role is None else {"instructions": begins_with.role}),
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
        self._sent[kind] += 1
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
        if self._phase is Phase.STARTING and now_s >= self._start_by_s:
            raise RemoteProtocolError(Fault.SILENT, f"no session.start within {self._silent_s:g} s")

    def heartbeat_due(self, now_s: float) -> bool:  # noqa: ARG002
        """Never: the API has none."""
        return False

    def heartbeat(self, *, now_s: float) -> OutgoingPacket:
        """The API has none."""
        raise LocalProtocolError(f"the Live API has no heartbeats ({now_s})")

    def next_deadline_s(self) -> float:
        """When `session.start` has to be there."""
        return self._start_by_s if self._phase is Phase.STARTING else float("inf")


def _audio_format(session: SessionField, event_id: str | None) -> AudioFormat:
    field = None if session.audio is None else session.audio.format
    if field is None:
        return _FORMATS["audio/pcm"][0]
    for audio_format in _FORMATS[field.type]:
        if field.rate in (None, audio_format.rate_hz):
            return audio_format
    rates = " or ".join(str(audio_format.rate_hz) for audio_format in _FORMATS[field.type])
    raise InvalidEventError(
        "invalid_value",
        f"the rate of {field.type} must be {rates}",
        param="session.audio.format.rate",
        event_id=event_id,
    )


def _voice(session: SessionField) -> str | None:
    """The voice by its name, or the id in an object."""
    voice = session.audio and session.audio.output and session.audio.output.get("voice")
    name = voice.get("id") if isinstance(voice, dict) else voice
    return None if not name else str(name)


def _persona(session: SessionField, event_id: str | None) -> Configure:
    """The voice and the role; blank is none."""
    persona = Configure(voice=_voice(session), role=(session.instructions or "").strip() or None)
    for param, text, characters in (
        ("session.audio.output.voice", persona.voice, VOICE_MAX),
        ("session.instructions", persona.role, ROLE_MAX),
    ):
        if text is not None and len(text) > characters:
            why = f"{param} may have {characters} characters"
            raise InvalidEventError("invalid_value", why, param=param, event_id=event_id)
    return persona


def _refuse_what_no_model_has(session: SessionField, event_id: str | None, *, takes_persona: bool) -> None:
    """Name the first thing that the session would have to ignore."""
    _refuse_delegation(session.delegation, session.triggers, event_id)
    persona = _persona(session, event_id)
    refused = {
        "session.instructions": persona.role is not None and not takes_persona,
        "session.audio.output.voice": persona.voice is not None and not takes_persona,
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


def _format_field(audio_format: AudioFormat) -> dict[str, object]:
    names = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}
    return {"type": names[audio_format.encoding], "rate": audio_format.rate_hz}


def _error(error: InvalidEventError) -> OutgoingPacket:
    fields = {"type": "invalid_request_error", "code": error.code, "message": str(error)}
    if error.param is not None:
        fields["param"] = error.param
    answer = {"error": {**fields, **_client_event_id(error.event_id)}, **_client_event_id(error.event_id)}
    return _packet("error", answer)


def _reply(kind: str, event_id: str | None) -> OutgoingPacket:
    return _packet(kind, _client_event_id(event_id))


def _client_event_id(event_id: str | None) -> dict[str, str]:
    return {} if event_id is None else {"client_event_id": event_id}


def _packet(kind: str, fields: Mapping[str, Any]) -> OutgoingPacket:
    """An event in reply; what the session knows is added when it is written."""
    return OutgoingPacket(kind, PacketType.METADATA, Priority.HIGH, json.dumps(fields).encode())
