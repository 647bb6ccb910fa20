"""Hands the frames that come out of the decoder to the sessions that hold their lanes.

The last actor of the engine. It waits only for the decoder's channel, never for a client, so a slow
client holds up no other. A lane that comes out closed is free again.
"""

import contextlib
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from actors.runtime.channel import Batch, Channel
from actors.sessions.admission import Admission
from pipeline.values import AgentFrame, Frame, LaneClosed, LaneFailed, Text

BUDGET_S: Final = 0.030  # encode + step + decode of one frame


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

    def attach(self, lane: int, sink: FrameSink) -> None:
        """Deliver the lane's frames to this sink, until the lane comes out closed."""
        self._sinks[lane] = sink

    def report_leak(self, before: str, frame: Frame) -> None:
        """A channel dropped a frame: inform the holder of its lane at once."""
        self._sinks[frame.lane].frame_dropped(frame.index, before)

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
        for frame in batch.frames:
            self.frames += 1
            self.over_budget += frame.header.batch_s > BUDGET_S
            self._sinks[frame.lane].deliver(frame)
