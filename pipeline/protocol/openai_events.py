"""What OpenAI's Live and Realtime APIs have in common: JSON events in text frames, audio formats, errors.

Neighbours: `live` and `realtime` have the events of each. What does not belong here: phases.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from pipeline.protocol import objects
from pipeline.protocol.faults import RemoteProtocolError
from pipeline.protocol.metadata import Configure
from pipeline.protocol.objects import FieldError, Natural, WireObject
from pipeline.units import AudioFormat

EVENT_ID_MAX: Final = 512  # characters of a client's event_id, which is sent back to it
_SHOWN_MAX: Final = 64  # characters of an unknown event's name, which is shown to its sender
_FORMATS: Final[Mapping[str, tuple[AudioFormat, ...]]] = {  # the first is the default
    "audio/pcm": (AudioFormat("pcm16", 24_000), AudioFormat("pcm16", 16_000)),
    "audio/pcmu": (AudioFormat("mulaw", 8_000),),
    "audio/pcma": (AudioFormat("alaw", 8_000),),
}
DEFAULT_FORMAT: Final = _FORMATS["audio/pcm"][0]
_NAMES: Final = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}
_SILENCE: Final[Mapping[str, bytes]] = {"pcm16": b"\x00", "mulaw": b"\xff", "alaw": b"\xd5"}

# Voices that clients name without having been asked to; no model here has them.
OPENAI_VOICES: Final = frozenset(
    [
        "alloy",
        "ash",
        "ballad",
        "beacon",
        "cedar",
        "cinder",
        "coral",
        "echo",
        "marin",
        "sage",
        "shimmer",
        "stone",
        "verse",
        "vesper",
    ]
)

EventId = Annotated[str, Meta(max_length=EVENT_ID_MAX)]


class InvalidEventError(Exception):
    """One event cannot be honoured; the session goes on. `param` is the field, where it is one."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, event_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.event_id = event_id

    def fields(self) -> dict[str, str]:
        """What both APIs say of an error."""
        error = {"type": "invalid_request_error", "code": self.code, "message": str(self)}
        return error if self.param is None else {**error, "param": self.param}


class EventObject(WireObject, frozen=True, rename=lambda name: name):
    """An object of a client; fields that are not named here are ignored."""


class AudioFormatField(EventObject, frozen=True):
    """`audio/pcm` at 16 or 24 kHz, `audio/pcmu` or `audio/pcma` at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Natural | None = None

    def resolve(self, param: str, event_id: str | None) -> AudioFormat:
        """The format; without a rate the default of its type.

        Raises:
            InvalidEventError: the type has no such rate; `param` is the name of this object.
        """
        for audio_format in _FORMATS[self.type]:
            if self.rate in (None, audio_format.rate_hz):
                return audio_format
        rates = " or ".join(str(audio_format.rate_hz) for audio_format in _FORMATS[self.type])
        why = f"the rate of {self.type} must be {rates}"
        raise InvalidEventError("invalid_value", why, param=f"{param}.rate", event_id=event_id)


def format_fields(audio_format: AudioFormat) -> dict[str, object]:
    """The format as the client gets it."""
    return {"type": _NAMES[audio_format.encoding], "rate": audio_format.rate_hz}


def silence(audio_format: AudioFormat, size: int) -> bytes:
    """So many bytes of silence."""
    return _SILENCE[audio_format.encoding] * size


def has_persona(persona: Configure, asked: Configure) -> bool:
    """Whether a session with this voice and role has what is asked for; None is anything, empty is none."""
    return all(
        wanted is None or (wanted or None) == present
        for wanted, present in ((asked.voice, persona.voice), (asked.role, persona.role))
    )


E = TypeVar("E", bound=EventObject)


class AppendAudio(EventObject, frozen=True):
    """Audio in the format of the session's input; each API has a name of its own for it."""

    audio: bytes
    event_id: EventId | None = None


class _PlainAudio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message with audio, and nothing in it that needs a closer look."""

    type: str
    audio: bytes
    event_id: EventId | None = None


_PLAIN_AUDIO: Final = msgspec.json.Decoder(_PlainAudio)


def decode(message: bytes | str, events: Mapping[str, type[E]], unsupported: frozenset[str]) -> E:
    """The event in one message. `unsupported` are the events of the API for what no model here can do.

    Raises:
        InvalidEventError: it is not a text frame with one JSON object, or the event is unknown or mistyped.
    """
    if isinstance(message, bytes):
        raise InvalidEventError("invalid_event", "events travel in text frames, this is a binary frame")
    audio = _plain_audio(message, events)
    if audio is not None:
        return audio
    try:
        fields = objects.decode(message.encode("utf-8", "surrogatepass"))
    except RemoteProtocolError:
        raise InvalidEventError(
            "invalid_json", "an event must be one JSON object, with each key once"
        ) from None
    event_id = _event_id(fields)
    name = fields.get("type")
    if not isinstance(name, str):
        raise InvalidEventError("invalid_value", "type must be a string", param="type", event_id=event_id)
    if name in unsupported:
        raise InvalidEventError(
            "unsupported_event",
            f"{name}: the model on this server cannot do this",
            param="type",
            event_id=event_id,
        )
    cls = events.get(name)
    if cls is None:
        shown = name[:_SHOWN_MAX]
        raise InvalidEventError("unknown_event", f"unknown event {shown!r}", param="type", event_id=event_id)
    try:
        return objects.from_fields(cls, fields, "")
    except FieldError as error:
        param = error.path.removeprefix(".")
        code = "missing_parameter" if error.problem == "is missing" else "invalid_value"
        raise InvalidEventError(code, f"{param} {error.problem}", param=param, event_id=event_id) from None


def _plain_audio(message: str, events: Mapping[str, type[E]]) -> E | None:
    """The event, if it is audio as clients write it: most are, and this takes a tenth of the time.

    None: anything else, which `decode` looks at closely. Four quotation marks a field, and none in a value,
    mean that no key is given twice, which msgspec's parser would not notice.
    """
    try:
        plain = _PLAIN_AUDIO.decode(message)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    cls = events.get(plain.type)
    fields = 2 if plain.event_id is None else 3
    if cls is None or not issubclass(cls, AppendAudio) or message.count('"') != 4 * fields:
        return None
    return cls(plain.audio, plain.event_id)


def _event_id(fields: dict[str, Any]) -> str | None:
    """The client's name for the event, if it is one that can be sent back."""
    event_id = fields.get("event_id")
    return event_id if isinstance(event_id, str) and len(event_id) <= EVENT_ID_MAX else None
