"""The commands of a Live client: any message is one of them, or an `InvalidEventError` that says why not."""

import base64
import binascii
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from pipeline.protocol import objects
from pipeline.protocol.faults import RemoteProtocolError
from pipeline.protocol.objects import FieldError, Natural, WireObject

EVENT_ID_MAX: Final = 512  # characters of a client's event_id, which is sent back to it
_SHOWN_MAX: Final = 64  # characters of an unknown event's name, which is shown to its sender

# Events of the API for what no model here can do.
UNSUPPORTED: Final = frozenset(
    {
        "decision.create",
        "decision.item.create",
        "decision.item.delete",
        "response.create",
        "response.item.create",
        "session.output_audio_fixture.play",
    }
)


class InvalidEventError(Exception):
    """One event cannot be honoured; the session goes on. `param` is the field, where it is one."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, event_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.event_id = event_id


class LiveObject(WireObject, frozen=True, rename=lambda name: name):
    """An object of a client; fields that are not named here are ignored."""


class AudioFormatField(LiveObject, frozen=True):
    """`audio/pcm` at 16 or 24 kHz, `audio/pcmu` or `audio/pcma` at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Natural | None = None


class AudioField(LiveObject, frozen=True):
    """The format of both directions; `output` may name a voice, as a string or an object."""

    format: AudioFormatField | None = None
    output: dict[str, Any] | None = None


class SessionField(LiveObject, frozen=True):
    """The configuration of a session; the model is the one that the server has loaded, whatever is named."""

    model: str
    audio: AudioField | None = None
    instructions: str | None = None
    input: tuple[Any, ...] | None = None
    delegation: dict[str, Any] | None = None
    triggers: tuple[Any, ...] | None = None
    store: bool | None = None
    client: dict[str, Any] | None = None
    safety_identifier: str | None = None


class UpdateField(LiveObject, frozen=True):
    """Changes of a running session."""

    delegation: dict[str, Any] | None = None
    triggers: tuple[Any, ...] | None = None


EventId = Annotated[str, Meta(max_length=EVENT_ID_MAX)]


class Start(LiveObject, frozen=True):
    """Begin the session."""

    TYPE: ClassVar = "session.start"

    session: SessionField
    event_id: EventId | None = None


class Append(LiveObject, frozen=True):
    """Audio in the session's format."""

    TYPE: ClassVar = "session.input_audio.append"

    audio: str
    event_id: EventId | None = None

    def data(self) -> bytes:
        """The raw audio.

        Raises:
            InvalidEventError: it is not base64.
        """
        try:
            return base64.b64decode(self.audio, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidEventError(
                "invalid_value", "audio must be base64", param="audio", event_id=self.event_id
            ) from None


class Mute(LiveObject, frozen=True):
    """Process silence instead of the audio that comes."""

    TYPE: ClassVar = "session.input_audio.mute"

    event_id: EventId | None = None


class Unmute(LiveObject, frozen=True):
    """Process the audio again."""

    TYPE: ClassVar = "session.input_audio.unmute"

    event_id: EventId | None = None


class AppendInstructions(LiveObject, frozen=True):
    """Text for the model while it runs."""

    TYPE: ClassVar = "session.instructions.append"

    content: str
    event_id: EventId | None = None


class AppendThinking(AppendInstructions, frozen=True):
    """The same, as context that is not spoken."""

    TYPE: ClassVar = "session.thinking.append"


class AppendCommentary(AppendInstructions, frozen=True):
    """The same, to be spoken."""

    TYPE: ClassVar = "session.commentary.append"


class Update(LiveObject, frozen=True):
    """Change the delegation or the triggers."""

    TYPE: ClassVar = "session.update"

    session: UpdateField
    event_id: EventId | None = None


class Close(LiveObject, frozen=True):
    """End the session."""

    TYPE: ClassVar = "session.close"

    event_id: EventId | None = None


ClientEvent = Start | Append | Mute | Unmute | AppendInstructions | Update | Close

EVENTS: Final[dict[str, type[ClientEvent]]] = {
    cls.TYPE: cls
    for cls in (
        Start,
        Append,
        Mute,
        Unmute,
        AppendInstructions,
        AppendThinking,
        AppendCommentary,
        Update,
        Close,
    )
}


def decode(message: bytes | str) -> ClientEvent:
    """The event in one message.

    Raises:
        InvalidEventError: it is not a text frame with one JSON object, or the event is unknown or mistyped.
    """
    if isinstance(message, bytes):
        raise InvalidEventError("invalid_event", "events travel in text frames, this is a binary frame")
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
    if name in UNSUPPORTED:
        raise InvalidEventError(
            "unsupported_event",
            f"{name}: the model on this server cannot do this",
            param="type",
            event_id=event_id,
        )
    cls = EVENTS.get(name)
    if cls is None:
        shown = name[:_SHOWN_MAX]
        raise InvalidEventError("unknown_event", f"unknown event {shown!r}", param="type", event_id=event_id)
    try:
        return objects.from_fields(cls, fields, "")
    except FieldError as error:
        param = error.path.removeprefix(".")
        code = "missing_parameter" if error.problem == "is missing" else "invalid_value"
        raise InvalidEventError(code, f"{param} {error.problem}", param=param, event_id=event_id) from None


def _event_id(fields: dict[str, Any]) -> str | None:
    """The client's name for the event, if it is one that can be sent back."""
    event_id = fields.get("event_id")
    return event_id if isinstance(event_id, str) and len(event_id) <= EVENT_ID_MAX else None
