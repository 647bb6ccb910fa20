"""The vocabulary of METADATA packets: everything that either end sends beside audio and text.

Each class is one JSON object; `TYPE` is its `type`, and the fields are in camelCase on the wire.
A `type` that is not known is no fault: it is ignored and counted. How values are validated: `objects`.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from pipeline.protocol import objects
from pipeline.protocol.faults import Fault, RefusedPacketError, RemoteProtocolError
from pipeline.protocol.objects import FieldError, Natural, WireObject

PROTOCOL = 1  # grows when a client written for the former number would misunderstand
SEED_MAX = objects.SAFE_INTEGER
VOICE_MAX = 64  # characters of a voice's name
ROLE_MAX = 4000  # characters; a model takes fewer, and says so

Temperature = Annotated[float, Meta(ge=0, le=10)]
TopK = Annotated[int, Meta(ge=0, le=65_536)]
Amount = Annotated[float, Meta(ge=0, le=objects.SAFE_INTEGER)]


class ModelInfo(WireObject, frozen=True):
    """The model of the server. `text`: TEXT packets hold words, or token ids where there is no tokenizer.

    `about` is a sentence on what it can do, `suggestions` are things to ask it; both are optional.
    `voices`: the names that `configure` may give; absent where the model takes neither a voice nor a role.
    """

    name: str
    shape: str
    trained: bool
    model_delay_ms: Natural
    text: Literal["text", "ids"]
    about: str | None = None
    suggestions: tuple[str, ...] | None = None
    voices: tuple[str, ...] | None = None


class LimitsInfo(WireObject, frozen=True):
    """The limits that this server enforces on a client."""

    message_bytes: Natural
    burst_frames: Natural
    max_lag_ms: Natural
    heartbeat_every_ms: Natural
    heartbeat_timeout_ms: Natural


class CapacityInfo(WireObject, frozen=True):
    """What this machine holds: `sessions` in time, 0 where not even one has headroom.

    `advice` is there where the machine is too slow for one session: a sentence on what would help.
    """

    sessions: Natural
    advice: str | None = None


class ConnectionEstablished(WireObject, frozen=True):
    """The server's first packet. `resume_token` is None where the server does not offer resume."""

    TYPE: ClassVar = "connection_established"

    protocol: Natural
    session_id: str
    resume_token: str | None
    server_time: Amount
    sample_rate: Natural
    frame_samples: Natural
    model: ModelInfo
    limits: LimitsInfo
    capacity: CapacityInfo | None = None


class Queued(WireObject, frozen=True):
    """No lane is free; `position` 1 is the next to get one. Sent again whenever it changes."""

    TYPE: ClassVar = "queued"

    position: Natural


class Ready(WireObject, frozen=True):
    """The session has a lane: audio may be sent from now on.

    `voice` and `role` are those that it begins with. Sent again once it has those that `configure` asked
    for; audio before that is not processed.
    """

    TYPE: ClassVar = "ready"

    voice: str | None = None
    role: str | None = None


class Resumed(WireObject, frozen=True):
    """The session continues where its previous connection broke; the token is new, and can be used once.

    The packets that want an ACK have ids, counted over the whole session from 0. `unacked` are
    those of the packets that follow first, `next_id` that of the first one after them.
    """

    TYPE: ClassVar = "resumed"

    session_id: str
    resume_token: str
    unacked: tuple[Natural, ...]
    next_id: Natural


class Stats(WireObject, frozen=True):
    """Statistics of the session and the server, each second; times are medians of the last seconds.

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


class ErrorNotice(WireObject, frozen=True):
    """A packet was refused, or the connection is about to end; `code` is for programs."""

    TYPE: ClassVar = "error"

    code: str
    message: str
    retry_after_ms: Natural | None = None


class Draining(WireObject, frozen=True):
    """The server is shutting down: the utterance is finished, then the connection closes."""

    TYPE: ClassVar = "draining"


class Dropped(WireObject, frozen=True):
    """Under load the server dropped `count` of `what`, so that the rest is on time."""

    TYPE: ClassVar = "dropped"

    what: str
    count: Natural


class RecordingNotice(WireObject, frozen=True):
    """Whether this client's audio is recorded on the server's disk, and under which name."""

    TYPE: ClassVar = "recording"

    on: bool
    name: str | None = None


class Configure(WireObject, frozen=True):
    """How the session's tokens are sampled from its next frame on; what is None stays as it is.

    Temperature 0 is greedy, top-k 0 no limit. `replay` starts or stops recording the session. `voice` and
    `role` can be chosen until the first audio; an empty string is none.
    """

    TYPE: ClassVar = "configure"

    temperature: Temperature | None = None
    top_k: TopK | None = None
    text_temperature: Temperature | None = None
    text_top_k: TopK | None = None
    padding_bias: Annotated[float, Meta(ge=-100, le=100)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.1, le=10)] | None = None
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)] | None = None
    replay: bool | None = None
    voice: Annotated[str, Meta(max_length=VOICE_MAX)] | None = None
    role: Annotated[str, Meta(max_length=ROLE_MAX)] | None = None


class Vad(WireObject, frozen=True):
    """Whether the client detects speech of its user."""

    TYPE: ClassVar = "vad"

    speaking: bool


class ClientStats(WireObject, frozen=True):
    """Statistics of the client's playback.

    `last_played_frame` counts this connection's AUDIO_CHUNK packets from 0.
    """

    TYPE: ClassVar = "client_stats"

    underruns: Natural | None = None
    buffer_ms: Amount | None = None
    last_played_frame: Natural | None = None


class Bye(WireObject, frozen=True):
    """The client is done: the utterance is finished and the lane is freed at once."""

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


def encode(value: Metadata) -> bytes:
    """The payload of a METADATA packet.

    Raises:
        LocalProtocolError: a number is NaN or infinite.
    """
    return objects.encode({"type": value.TYPE, **objects.to_fields(value)})


def decode(payload: bytes, sender: Role) -> Metadata | None:
    """The object in a METADATA packet of `sender`; None where its `type` is not known.

    Raises:
        RemoteProtocolError: not UTF-8, not JSON, not an object, or no string `type`.
        RefusedPacketError: a field is missing, mistyped or out of range; the message names it.
    """
    fields = objects.decode(payload)
    name = fields.get("type")
    if not isinstance(name, str):
        raise RemoteProtocolError(Fault.INVALID_METADATA, "metadata must have a string `type`")
    cls = VOCABULARY[sender].get(name)
    if cls is None:
        return None
    try:
        return objects.from_fields(cls, fields, name)
    except FieldError as error:
        raise RefusedPacketError("bad_metadata", str(error)) from None
