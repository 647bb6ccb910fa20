"""The values that are passed between packages and on channels: frozen, holding Python, bytes or NumPy.

Never an `mx.array`: an MLX stream is bound to the thread that made it. Every value on a channel
has the lane that it belongs to; every frame also has the session's frame index, so that a gap is
visible downstream, and the client's capture time, which is echoed and never read as a clock.

Shapes: `pcm [1920]` float32 at 24 kHz within ±1, `codes [K]` int32.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Pcm = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one session's tokens are sampled. Temperature 0 is greedy; `top_k` 0 is no limit.

    `padding_bias` is added to the text logit of the padding token: above 0 the agent talks less,
    below 0 more. `repetition_penalty` divides the text logits of the last `repetition_window` text
    tokens that were not padding (negative logits are multiplied). Defaults are those of the
    official `LMGen`.
    """

    temperature: float = 0.8
    top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25
    padding_bias: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    seed: int = 0


GREEDY = SamplingParams(temperature=0.0, text_temperature=0.0)


@dataclass(frozen=True, slots=True)
class TextPartial:
    """The whole utterance so far, so that one may be lost."""

    text: str


@dataclass(frozen=True, slots=True)
class TextFinal:
    """A complete utterance."""

    text: str


Text = TextPartial | TextFinal


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A voice for a prompt: `codes [V, 8]` of a recording.

    What the published voice files hold instead: `embeddings [V − 1, D]`, the summed input of positions 0 to
    V − 2, and `tail [2, 1 + n_q]`, the tokens at positions V − 1 and V as far as the voice reaches.
    """

    codes: npt.NDArray[np.int32] | None = None
    embeddings: npt.NDArray[np.float32] | None = None
    tail: npt.NDArray[np.int32] | None = None

    @property
    def frames(self) -> int:
        """V, the voice's length in frames."""
        if self.codes is not None:
            return len(self.codes)
        assert self.embeddings is not None, "a voice has codes or embeddings"
        return len(self.embeddings) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a session begins with: a voice, a role as text tokens, or both. `key` names it for a cache."""

    key: str
    voice: Voice | None = None
    role: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Persona:
    """What a client asks for: a voice by its name, a role as text; None is neither."""

    voice: str | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class LaneOpened:
    """The lane belongs to a new session; each stage resets its row."""

    lane: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class LanePrompted:
    """The lane's session, which has no frame yet, begins with `prompt` instead of what it had.

    None: without one.
    """

    lane: int
    prompt: Prompt | None


@dataclass(frozen=True, slots=True)
class LaneConfigured:
    """The session's sampling changes from its next frame on; its state stays."""

    lane: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class LaneClosed:
    """The last event of a session; after the last stage the lane is free again.

    `text`: the utterance that this ends, added by the stepper.
    """

    lane: int
    text: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneFailed:
    """A model failed on a batch with this lane; the lane's state is invalid, that of other lanes is not."""

    lane: int
    stage: str


LaneEvent = LaneOpened | LanePrompted | LaneConfigured | LaneClosed | LaneFailed


class Span(NamedTuple):
    """One model's part of a traced frame: when it was done (monotonic clock), and how long its batch took."""

    done_s: float
    batch_s: float


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame carries through the engine, whatever its payload; each stage passes it on.

    Attributes:
        lane: the row of the batch.
        index: counts the session's frames from 0.
        captured_ms: the client's clock, milliseconds since the Unix epoch, echoed bit for bit.
        received_s: when the packet was read, on the server's monotonic clock.
        model_s: the batches that the frame was part of and its waits for a busy model, summed up;
            `now - received_s - model_s` is the latency that the server adds.
        batch_s: the batches alone.
        due_s: the monotonic time after which its sound is not worth computing any more.
        spans: one for each stage it has passed; None where the frame is not traced.
    """

    lane: int
    index: int
    captured_ms: float
    received_s: float
    model_s: float = 0.0
    batch_s: float = 0.0
    due_s: float = math.inf
    spans: tuple[Span, ...] | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """80 ms of one session on its way through the engine: a header, and a payload by its class."""

    header: FrameHeader

    @property
    def lane(self) -> int:
        """The row of the batch."""
        return self.header.lane

    @property
    def index(self) -> int:
        """The number of the session's frame, from 0."""
        return self.header.index


@dataclass(frozen=True, slots=True)
class UserFrame(Frame):
    """80 ms of microphone audio: `pcm [1920]`."""

    pcm: Pcm


@dataclass(frozen=True, slots=True)
class UserCodes(Frame):
    """The same 80 ms as Mimi codes `[K]`."""

    codes: Codes


@dataclass(frozen=True, slots=True)
class AgentCodes(Frame):
    """One step of the language model.

    `token` is the raw text token of the step. `codes [dep_q]` are whole, undelayed agent
    codes, or None during the first `max_delay` steps, when no frame is complete yet.
    """

    token: int
    text: tuple[Text, ...]
    codes: Codes | None


@dataclass(frozen=True, slots=True)
class AgentFrame(Frame):
    """80 ms of the agent's audio, and its text. `pcm` is None for the first `max_delay` frames.

    `skipped`: it is None because the frame was too late to be decoded.
    """

    text: tuple[Text, ...]
    pcm: Pcm | None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one lane's step of the language model.

    The raw text token, the text that it completes, and a complete agent frame `codes [dep_q]` or,
    until the model's delay has passed, None.
    """

    token: int
    text: tuple[Text, ...]
    codes: Codes | None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The description of the model that a client gets.

    `trained` is False for seeded random weights. `model_delay_ms` is the model's own acoustic
    delay, 80 ms times its largest codebook delay. `text`: whether text is words or, without a
    tokenizer, token ids. `about` is one sentence on what the model can do, `suggestions` are
    things to ask it; both come from the configuration. `voices`: the names of the voices that a
    session may have, None where the model takes neither a voice nor a role.
    """

    name: str
    shape: str
    trained: bool
    model_delay_ms: int
    text: Literal["ids", "text"]
    about: str | None = None
    suggestions: tuple[str, ...] = ()
    voices: tuple[str, ...] | None = None
