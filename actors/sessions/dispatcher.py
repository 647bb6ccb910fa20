"""Hands the frames that come out of the decoder to the sessions that hold their lanes.

The last actor of the engine. It waits only for the decoder's channel, never for a client, so a slow
client holds up no other. A lane that comes out closed is free again.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from actors.runtime.channel import Batch, Channel
from actors.sessions.admission import Admission
from pipeline.units import FRAME_MS
from pipeline.values import AgentFrame, Frame, LaneClosed, LaneFailed, Text

BUDGET_S: Final = 0.030  # encode + step + decode of one frame
# Past its deadline, which is a frame's duration after its arrival. A client with a buffer of one frame has a
# gap where an answer comes a frame's duration later than usual.
TOLERANCE_S: Final = FRAME_MS / 1000 / 2


class FrameSink(Protocol):
    """The holder of a lane. None of its methods may block."""

    def deliver(self, frame: AgentFrame) -> None:
        """Take what one step released."""
        ...

    def lane_closed(self, text: Iterable[Text]) -> None:
        """Take the last text; nothing follows."""
        ...

    def frame_dropped(self, index: int, before: str) -> None:
        """A frame was dropped before a stage; nothing will come of it."""
        ...

    def lane_failed(self, stage: str) -> None:
        """A model failed on the lane; only its closing follows."""
        ...


@dataclass(frozen=True, slots=True)
class Punctuality:
    """Frames of clients that read, and how many were in time.

    Attributes:
        frames: frames that came out of the decoder, or were dropped before a model when they were late.
        late: of those, not decoded, or `TOLERANCE_S` past their deadline.
        tight: of those, past their deadline at all; late ones included.
    """

    frames: int = 0
    late: int = 0
    tight: int = 0

    def since(self, before: "Punctuality") -> "Punctuality":
        """The difference to an earlier moment."""
        return Punctuality(self.frames - before.frames, self.late - before.late, self.tight - before.tight)


class Dispatcher:
    """From the decoder's channel to the lanes' holders.

    Attributes:
        frames: steps of the language model that came out.
        over_budget: those whose batches took longer than `BUDGET_S` together.
    """

    def __init__(self, channel: Channel[AgentFrame], admission: Admission) -> None:
        self._channel = channel
        self._admission = admission
        self._sinks: dict[int, FrameSink] = {}
        self.frames = 0
        self.over_budget = 0
        self._timely = self._late = self._tight = 0  # timely: of clients that read

    def attach(self, lane: int, sink: FrameSink) -> None:
        """Deliver the lane's frames to this sink, until the lane comes out closed."""
        self._sinks[lane] = sink

    def report_leak(self, before: str, frame: Frame) -> None:
        """A channel dropped a frame: inform the holder of its lane at once.

        One that was dropped before it was due had no room beside those that its client sent after it, which
        says nothing about the models: otherwise a client that sends too much would have others put back.
        """
        self._sinks[frame.lane].frame_dropped(frame.index, before)
        late_s = trio.current_time() - frame.header.due_s
        if late_s > TOLERANCE_S:
            self._count_lateness(frame, late_s)

    def punctuality(self) -> Punctuality:
        """The counters now."""
        return Punctuality(self._timely, self._late, self._tight)

    def _count_lateness(self, frame: Frame, late_s: float) -> None:
        if frame.header.due_s == -math.inf:
            return  # its client does not play what it has: not the models' lateness
        self._timely += 1
        self._late += late_s > TOLERANCE_S
        self._tight += late_s > 0

    async def run(self) -> None:
        """Deliver until the decoder has ended."""
        with contextlib.suppress(trio.EndOfChannel):
            while True:
                self._deliver(await self._channel.take_batch())

    def _deliver(self, batch: Batch[AgentFrame]) -> None:
        for event in batch.events:
            match event:
                case LaneClosed(lane, text):
                    self._sinks.pop(lane).lane_closed(text)
                    self._admission.free(lane)
                case LaneFailed(lane, stage):
                    self._sinks[lane].lane_failed(stage)
        now_s = trio.current_time()
        for frame in batch.frames:
            self.frames += 1
            self._count_lateness(frame, math.inf if frame.skipped else now_s - frame.header.due_s)
            self.over_budget += frame.header.batch_s > BUDGET_S
            self._sinks[frame.lane].deliver(frame)
