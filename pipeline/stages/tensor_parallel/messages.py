"""What the ranks of one model tell each other in a round: always as many bytes, whatever there is to say.

Rank 0 says what all do next: take a step, with everything that a step needs; show that they
are there; end. The others say how they are. Lanes that were opened since the last step are
reset before the next one, and sampling settings are part of the step they apply to, so that
opening and configuring a session cost no round.

What belongs here: the form of a message, into and out of arrays. Exchanging them: `rounds`.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.models.sampling import Choice, SamplingBatch
from pipeline.values import Sampling

Ints = npt.NDArray[np.int32]

# Nobody is asked for a longer memory than a session's default: packets do not say.
RECENT: Final = Sampling().repetition_window


class Order(IntEnum):
    """What rank 0 wants of all."""

    BEAT = 0
    STEP = 1
    END = 2


class Word(IntFlag):
    """What another rank says of itself."""

    LOADING = 0
    LOADED = 1
    FAILED = 2  # to load
    LEAVING = 4  # it was told to end


class StepOrder(NamedTuple):
    """One step, as `LmModel.step` takes it, and the rows to reset before."""

    resets: tuple[int, ...]
    rows: Ints
    text: Ints
    audio: Ints
    batch: SamplingBatch


@dataclass(frozen=True)
class Form:
    """The form of the messages about one model: `rows` of state, at most `width` in a step."""

    rows: int
    width: int
    n_q: int
    dep_q: int

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """One message. Every field is made of 32-bit numbers, so that MLX can take it as int32."""
        integers = {
            "order": (), "value": (), "word": (), "resets": (self.rows,), "width": (), "rows": (self.width,),
            "text": (self.width,), "audio": (self.width, self.n_q), "drawn": (),
            "text_top_k": (self.width,), "top_k": (self.width,),
            "recent": (self.width, RECENT), "recents": (self.width,),
        }  # fmt: skip
        floats = {
            "text_temperature": (self.width,), "temperature": (self.width,), "padding_bias": (self.width,),
            "penalty": (self.width,), "uniforms": (self.width, 1 + self.dep_q),
        }  # fmt: skip
        return np.dtype(
            [(name, "<i4", shape) for name, shape in integers.items()]
            + [(name, "<f4", shape) for name, shape in floats.items()]
        )

    @property
    def numbers(self) -> int:
        """32-bit numbers in a message."""
        return self.dtype.itemsize // 4

    def message(
        self, order: Order = Order.BEAT, *, value: int = 0, word: Word = Word.LOADING
    ) -> npt.NDArray[np.void]:
        """`[1]`: a message without a step.

        `value`: of a beat, for how many milliseconds there will be no other; of an end, its code.
        """
        message = np.zeros(1, self.dtype)
        message["order"], message["value"], message["word"] = order, value, word
        return message

    def of_step(self, step: StepOrder) -> npt.NDArray[np.void]:
        """`[1]`: the message that orders `step`.

        Raises:
            ValueError: it does not fit.
        """
        batch, width = step.batch, len(step.rows)
        message = self.message(Order.STEP)
        one = message[0]
        one["resets"][list(step.resets)] = 1
        one["width"] = width
        one["rows"][:width], one["text"][:width] = step.rows, step.text
        one["audio"][:width] = step.audio
        for prefix, choice in (("text_", batch.text), ("", batch.audio)):
            one[f"{prefix}temperature"][:width] = choice.temperature
            one[f"{prefix}top_k"][:width] = choice.top_k
        one["padding_bias"][:width], one["penalty"][:width] = batch.padding_bias, batch.repetition_penalty
        for row, tokens in enumerate(batch.recent):
            one["recents"][row] = len(tokens)
            one["recent"][row, : len(tokens)] = tokens
        if batch.uniforms is not None:
            one["drawn"] = 1
            one["uniforms"][:width] = batch.uniforms
        return message

    def step_in(self, message: npt.NDArray[np.void]) -> StepOrder:
        """What `of_step` put into `message [1]`."""
        one = message[0]
        width = int(one["width"])
        batch = SamplingBatch(
            text=Choice(one["text_temperature"][:width], one["text_top_k"][:width]),
            audio=Choice(one["temperature"][:width], one["top_k"][:width]),
            padding_bias=one["padding_bias"][:width],
            repetition_penalty=one["penalty"][:width],
            recent=tuple(
                one["recent"][row, :count] for row, count in enumerate(one["recents"][:width].tolist())
            ),
            uniforms=one["uniforms"][:width] if one["drawn"] else None,
        )
        return StepOrder(
            resets=tuple(np.flatnonzero(one["resets"]).tolist()),
            rows=one["rows"][:width],
            text=one["text"][:width],
            audio=one["audio"][:width],
            batch=batch,
        )
