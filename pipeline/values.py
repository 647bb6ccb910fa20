"""What travels between the rooms: frozen values that hold Python, bytes or NumPy.

Never an `mx.array`: an MLX stream is bound to the thread that made it. Every value
on a channel carries the lane it belongs to; every frame also carries the session's
frame index, so that a gap is visible downstream, and the client's capture time, which
is echoed and never read as a clock.

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
    """How one session's tokens are drawn. Temperature 0 is greedy; `top_k` 0 is no limit.

    `padding_bias` is added to the text logits of the padding token: above 0 the agent
    talks less, below 0 more. `repetition_penalty` divides (or, where negative, multiplies)
    the text logits of the last `repetition_window` text tokens that were not padding.
    Defaults are those of the official `LMGen`.
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
    """The whole utterance so far; losing one costs nothing."""

    text: str


@dataclass(frozen=True, slots=True)
class TextFinal:
    """An utterance, closed."""

    text: str


Text = TextPartial | TextFinal


@dataclass(frozen=True, slots=True)
class LaneOpened:
    """The lane belongs to a new session; each stage resets exactly that row."""

    lane: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class LaneConfigured:
    """The session's sampling changes from its next frame on; its state does not."""

    lane: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class LaneClosed:
    """Nothing follows for this session; past the last stage the lane is free again.

    `text` is what the stepper still had to say: the utterance this closes.
    """

    lane: int
    text: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneFailed:
    """A model failed on a batch with this lane: what it remembers of the lane is void, of others whole."""

    lane: int
    stage: str


LaneEvent = LaneOpened | LaneConfigured | LaneClosed | LaneFailed


class Span(NamedTuple):
    """One model's part of a traced frame: when it was done (monotonic clock), and its batch."""

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
        spans: one for each stage behind it; None where the frame is not traced.
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
    """80 ms of microphone: `pcm [1920]`."""

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
    """80 ms of loudspeaker, or None while the model's delay fills, and the text beside it.

    `skipped`: there would have been sound, and it was due before it could be made.
    """

    text: tuple[Text, ...]
    pcm: Pcm | None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a client is told of the model it will talk to.

    `trained` is False for seeded random weights. `model_delay_ms` is the model's own
    acoustic delay, 80 ms times its largest codebook delay. `text` says whether what is
    spelled is words or, without a tokenizer, token ids. `about` is one sentence on what it can
    do, `suggestions` are what may be asked: the words of whoever configured it, for people.
    """

    name: str
    shape: str
    trained: bool
    model_delay_ms: int
    text: Literal["ids", "text"]
    about: str | None = None
    suggestions: tuple[str, ...] = ()
