"""The vocabulary of METADATA packets: what either end may tell the other beside audio and text.

Each class is one JSON object; `TYPE` is its `type`, the fields are spelled in camelCase.
A `type` that is not known is no fault: it is passed over and counted.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pipeline.protocol import objects
from pipeline.protocol.faults import Fault, RefusedPacketError, RemoteProtocolError
from pipeline.protocol.objects import Between, FieldError, Natural

PROTOCOL = 1  # grows when a client written for the former number would misunderstand
SEED_MAX = objects.SAFE_INTEGER

Temperature = Annotated[float, Between(0, 10)]
TopK = Annotated[int, Between(0, 65_536)]
Amount = Annotated[float, Between(0, objects.SAFE_INTEGER)]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Who speaks. `text` says what TEXT packets hold: words, or token ids for want of a tokenizer.

    `about` is a sentence on what it can do, `suggestions` are what to ask it; a server need not say either.
    """

    name: str
    shape: str
    trained: bool
    model_delay_ms: Natural
    text: Literal["text", "ids"]
    about: str | None = None
    suggestions: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class LimitsInfo:
    """What this server holds a client to."""

    message_bytes: Natural
    burst_frames: Natural
    max_lag_ms: Natural
    heartbeat_every_ms: Natural
    heartbeat_timeout_ms: Natural


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """The server's first word. `resume_token` is None where the server does not offer resume."""

    TYPE: ClassVar = "connection_established"

    protocol: Natural
    session_id: str
    resume_token: str | None
    server_time: Amount
    sample_rate: Natural
    frame_samples: Natural
    model: ModelInfo
    limits: LimitsInfo


@dataclass(frozen=True, slots=True)
class Queued:
    """No lane is free; `position` 1 is the next to get one. Said again whenever it changes."""

    TYPE: ClassVar = "queued"

    position: Natural


@dataclass(frozen=True, slots=True)
class Ready:
    """The session has a lane: audio may be sent from now on."""

    TYPE: ClassVar = "ready"


@dataclass(frozen=True, slots=True)
class Resumed:
    """The session goes on where its former connection broke; the token is new, and good once.

    The packets that want an ACK have ids, counted over the whole session from 0. `unacked` are
    those of the packets that follow first, `next_id` that of the first one after them.
    """

    TYPE: ClassVar = "resumed"

    session_id: str
    resume_token: str
    unacked: tuple[Natural, ...]
    next_id: Natural


@dataclass(frozen=True, slots=True)
class Stats:
    """How the session and the server are doing, each second; times are medians of the last seconds.

    `added_ms` is what the server adds to its models: packet received → packet sent, minus
    the frame's own batches and its waits for a busy model thread.
    """

    TYPE: ClassVar = "stats"

    frames_in: Natural
    frames_out: Natural
    frames_dropped: Natural
    underruns: Natural
    lanes_open: Natural
    lanes_max: Natural
    queued: Natural
    encode_ms: Amount | None = None
    step_ms: Amount | None = None
    decode_ms: Amount | None = None
    added_ms: Amount | None = None
    low_left_out: Natural | None = None
    partials_left_out: Natural | None = None
    decodes_skipped: Natural | None = None
    audio_left_out: Natural | None = None


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """Something was refused, or is about to end the connection; `code` is for programs."""

    TYPE: ClassVar = "error"

    code: str
    message: str
    retry_after_ms: Natural | None = None


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is shutting down: the utterance is finished, then the connection closes."""

    TYPE: ClassVar = "draining"


@dataclass(frozen=True, slots=True)
class Dropped:
    """Under pressure the server left `count` of `what` out, so that the rest stays in time."""

    TYPE: ClassVar = "dropped"

    what: str
    count: Natural


@dataclass(frozen=True, slots=True)
class RecordingNotice:
    """Whether what this client says is written to the server's disk, and under which name."""

    TYPE: ClassVar = "recording"

    on: bool
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Configure:
    """How the session's tokens are drawn from its next frame on; what is None stays as it is.

    Temperature 0 is greedy, top-k 0 no limit. `replay` asks that the session be recorded, or no more.
    """

    TYPE: ClassVar = "configure"

    temperature: Temperature | None = None
    top_k: TopK | None = None
    text_temperature: Temperature | None = None
    text_top_k: TopK | None = None
    padding_bias: Annotated[float, Between(-100, 100)] | None = None
    repetition_penalty: Annotated[float, Between(0.1, 10)] | None = None
    seed: Annotated[int, Between(0, SEED_MAX)] | None = None
    replay: bool | None = None


@dataclass(frozen=True, slots=True)
class Vad:
    """Whether the client hears its user speak."""

    TYPE: ClassVar = "vad"

    speaking: bool


@dataclass(frozen=True, slots=True)
class ClientStats:
    """How the client's loudspeaker is doing.

    `last_played_frame` counts this connection's AUDIO_CHUNK packets from 0.
    """

    TYPE: ClassVar = "client_stats"

    underruns: Natural | None = None
    buffer_ms: Amount | None = None
    last_played_frame: Natural | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    """The client is done: the utterance is closed and the lane is freed at once."""

    TYPE: ClassVar = "bye"


ServerMetadata = (
    ConnectionEstablished
    | Queued
    | Ready
    | Resumed
    | Stats
    | ErrorNotice
    | Draining
    | Dropped
    | RecordingNotice
)
ClientMetadata = Configure | Vad | ClientStats | Bye
Metadata = ServerMetadata | ClientMetadata
Role = Literal["server", "client"]

VOCABULARY: dict[Role, dict[str, type[Metadata]]] = {
    "server": {
        cls.TYPE: cls
        for cls in (
            ConnectionEstablished,
            Queued,
            Ready,
            Resumed,
            Stats,
            ErrorNotice,
            Draining,
            Dropped,
            RecordingNotice,
        )
    },
    "client": {cls.TYPE: cls for cls in (Configure, Vad, ClientStats, Bye)},
}


def spell(value: Metadata) -> bytes:
    """The payload of a METADATA packet."""
    return objects.dump({"type": value.TYPE, **objects.spell(value)})


def read(payload: bytes, speaker: Role) -> Metadata | None:
    """What `speaker` said in a METADATA packet; None where its `type` is not known.

    Raises:
        RemoteProtocolError: not UTF-8, not JSON, not an object, or no string `type`.
        RefusedPacketError: a field is missing, mistyped or out of range; the sentence names it.
    """
    spelled: dict[str, Any] = objects.load(payload)
    name = spelled.get("type")
    if not isinstance(name, str):
        raise RemoteProtocolError(Fault.INVALID_METADATA, "metadata must have a string `type`")
    cls = VOCABULARY[speaker].get(name)
    if cls is None:
        return None
    try:
        return objects.read(cls, spelled, name)
    except FieldError as error:
        raise RefusedPacketError("bad_metadata", str(error)) from None
