"""The commands of a Realtime client: any message is one of them, or an `InvalidEventError`."""

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from pipeline.protocol import openai_events
from pipeline.protocol.objects import Natural
from pipeline.protocol.openai_events import AppendAudio, AudioFormatField, EventId, EventObject

# Events of the API for what no model here can do.
UNSUPPORTED: Final = frozenset(
    {
        "conversation.item.create",
        "conversation.item.delete",
        "conversation.item.retrieve",
        "output_audio_buffer.clear",
    }
)
ItemId = Annotated[str, Meta(max_length=512)]


class InputField(EventObject, frozen=True):
    """What comes from the client. The model decides when to speak, whatever `turn_detection` says."""

    format: AudioFormatField | None = None
    transcription: Any = None
    noise_reduction: Any = None


class OutputField(EventObject, frozen=True):
    """What goes to the client. A voice is a name, or an object with an id."""

    format: AudioFormatField | None = None
    voice: Any = None
    speed: Any = None


class AudioField(EventObject, frozen=True):
    """Both directions."""

    input: InputField | None = None
    output: OutputField | None = None


class SessionField(EventObject, frozen=True):
    """Changes of the session; what is left out stays. The model is the one that the server has loaded."""

    type: Literal["realtime"]
    audio: AudioField | None = None
    instructions: str | None = None
    output_modalities: tuple[str, ...] | None = None
    tools: tuple[Any, ...] | None = None
    max_output_tokens: Any = None
    prompt: Any = None
    reasoning: Any = None
    tracing: Any = None
    truncation: Any = None


class Update(EventObject, frozen=True):
    """Change the session."""

    TYPE: ClassVar = "session.update"

    session: SessionField
    event_id: EventId | None = None


class Append(AppendAudio, frozen=True):
    """Audio in the session's input format."""

    TYPE: ClassVar = "input_audio_buffer.append"


class Commit(EventObject, frozen=True):
    """The user has finished speaking."""

    TYPE: ClassVar = "input_audio_buffer.commit"

    event_id: EventId | None = None


class Clear(EventObject, frozen=True):
    """Forget the audio that was not processed yet."""

    TYPE: ClassVar = "input_audio_buffer.clear"

    event_id: EventId | None = None


class ResponseField(EventObject, frozen=True):
    """What a response is to be like; the model cannot be told any of it."""

    conversation: str | None = None
    input: tuple[Any, ...] | None = None
    instructions: str | None = None
    metadata: dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]] | None = None
    output_modalities: tuple[str, ...] | None = None
    tools: tuple[Any, ...] | None = None


class CreateResponse(EventObject, frozen=True):
    """What the model says next is the response to this."""

    TYPE: ClassVar = "response.create"

    response: ResponseField | None = None
    event_id: EventId | None = None


class CancelResponse(EventObject, frozen=True):
    """End the response, and send nothing until the model begins to speak anew."""

    TYPE: ClassVar = "response.cancel"

    response_id: ItemId | None = None
    event_id: EventId | None = None


class Truncate(EventObject, frozen=True):
    """The user has heard an item only so far."""

    TYPE: ClassVar = "conversation.item.truncate"

    item_id: ItemId
    content_index: Natural
    audio_end_ms: Natural
    event_id: EventId | None = None


ClientEvent = Update | Append | Commit | Clear | CreateResponse | CancelResponse | Truncate

EVENTS: Final[dict[str, type[ClientEvent]]] = {
    cls.TYPE: cls for cls in (Update, Append, Commit, Clear, CreateResponse, CancelResponse, Truncate)
}


def decode(message: bytes | str) -> ClientEvent:
    """The event in one message.

    Raises:
        InvalidEventError: it is not a text frame with one JSON object, or the event is unknown or mistyped.
    """
    return openai_events.decode(message, EVENTS, UNSUPPORTED)
