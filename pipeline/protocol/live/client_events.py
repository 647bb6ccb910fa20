"""The commands of a Live client: any message is one of them, or an `InvalidEventError` that says why not."""

from typing import Any, ClassVar, Final

from pipeline.protocol import openai_events
from pipeline.protocol.openai_events import AppendAudio, AudioFormatField, EventId, EventObject

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


class AudioField(EventObject, frozen=True):
    """The format of both directions; `output` may name a voice, as a string or an object."""

    format: AudioFormatField | None = None
    output: dict[str, Any] | None = None


class SessionField(EventObject, frozen=True):
    """The configuration of a session; the model is the one that the server has loaded, whatever is named."""

    model: str
    audio: AudioField | None = None
    instructions: str | None = None
    input: tuple[Any, ...] | None = None
    delegation: dict[str, Any] | None = None
    triggers: tuple[Any, ...] | None = None
    store: bool | None = None
    client: dict[str, Any] | None = None
    safety_identifier: EventId | None = None  # sent back with the session, every time


class UpdateField(EventObject, frozen=True):
    """Changes of a running session."""

    delegation: dict[str, Any] | None = None
    triggers: tuple[Any, ...] | None = None


class Start(EventObject, frozen=True):
    """Begin the session."""

    TYPE: ClassVar = "session.start"

    session: SessionField
    event_id: EventId | None = None


class Append(AppendAudio, frozen=True):
    """Audio in the session's format."""

    TYPE: ClassVar = "session.input_audio.append"


class Mute(EventObject, frozen=True):
    """Process silence instead of the audio that comes."""

    TYPE: ClassVar = "session.input_audio.mute"

    event_id: EventId | None = None


class Unmute(EventObject, frozen=True):
    """Process the audio again."""

    TYPE: ClassVar = "session.input_audio.unmute"

    event_id: EventId | None = None


class AppendInstructions(EventObject, frozen=True):
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


class Update(EventObject, frozen=True):
    """Change the delegation or the triggers."""

    TYPE: ClassVar = "session.update"

    session: UpdateField
    event_id: EventId | None = None


class Close(EventObject, frozen=True):
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
    return openai_events.decode(message, EVENTS, UNSUPPORTED)
