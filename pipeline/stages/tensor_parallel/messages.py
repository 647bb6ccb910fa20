"""Messages between the ranks of one model: a command from rank 0, a status from the others, of fixed size.

A command is a step with everything that it needs, a heartbeat, or the end. Lanes that were
opened since the last step are reset before the next one, and sampling parameters travel with
the step they apply to, so that opening and configuring a session take no exchange of their own.

What belongs here: the layout of a message, into and out of arrays. Exchanging them: `collective`.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.models.sampling import SamplingBatch

Ints = npt.NDArray[np.int32]


class Command(IntEnum):
    """What rank 0 makes all ranks do next."""

    HEARTBEAT = 0
    STEP = 1
    END = 2


class RankStatus(IntFlag):
    """The status of another rank."""

    LOADING = 0
    LOADED = 1
    FAILED = 2  # to load
    LEAVING = 4  # it was asked to end


class StepCommand(NamedTuple):
    """The arguments of one `LmStep`, and the rows to reset before it."""

    resets: tuple[int, ...]
    rows: Ints
    text: Ints
    audio: Ints
    batch: SamplingBatch


@dataclass(frozen=True)
class MessageLayout:
    """The layout of messages about one model with `rows` rows of state, of which a step has up to `width`."""

    rows: int
    width: int
    n_q: int
    dep_q: int

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """One message. Every field consists of 32-bit numbers, so that MLX can take it as int32."""
        fields = {
            "command": (), "value": (), "status": (), "resets": (self.rows,), "width": (),
            "rows": (self.width,), "text": (self.width,), "audio": (self.width, self.n_q),
        }  # fmt: skip
        integers, floats = SamplingBatch.packed_columns(self.dep_q)
        return np.dtype(
            [(name, "<i4", shape) for name, shape in fields.items()]
            + [(name, "<i4", self._shape(columns)) for name, columns in integers.items()]
            + [(name, "<f4", self._shape(columns)) for name, columns in floats.items()]
        )

    def _shape(self, columns: int) -> tuple[int, ...]:
        return (self.width,) if columns == 1 else (self.width, columns)

    @property
    def numbers(self) -> int:
        """32-bit numbers in a message."""
        return self.dtype.itemsize // 4

    def message(
        self, command: Command = Command.HEARTBEAT, *, value: int = 0, status: RankStatus = RankStatus.LOADING
    ) -> npt.NDArray[np.void]:
        """`[1]`: a message without a step.

        `value`: of a heartbeat, the milliseconds in which no other message will follow; of an end,
        the exit code.
        """
        message = np.zeros(1, self.dtype)
        message["command"], message["value"], message["status"] = command, value, status
        return message

    def pack_step(self, step: StepCommand) -> npt.NDArray[np.void]:
        """`[1]`: the message with `step`.

        Raises:
            ValueError: the step has more rows than a message.
        """
        width = len(step.rows)
        message = self.message(Command.STEP)
        one = message[0]
        one["resets"][list(step.resets)] = 1
        one["width"] = width
        one["rows"][:width], one["text"][:width] = step.rows, step.text
        one["audio"][:width] = step.audio
        for name, values in step.batch.pack(self.dep_q).items():
            one[name][:width] = values
        return message

    def unpack_step(self, message: npt.NDArray[np.void]) -> StepCommand:
        """The step that `pack_step` put into `message [1]`."""
        one = message[0]
        width = int(one["width"])
        integers, floats = SamplingBatch.packed_columns(self.dep_q)
        batch = SamplingBatch.unpack({name: one[name][:width] for name in (*integers, *floats)})
        return StepCommand(
            resets=tuple(np.flatnonzero(one["resets"]).tolist()),
            rows=one["rows"][:width],
            text=one["text"][:width],
            audio=one["audio"][:width],
            batch=batch,
        )
