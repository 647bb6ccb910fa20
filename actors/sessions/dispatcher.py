"""What comes out of the line reaches the session that holds its lane at once, and frees the lane at its end.

The last actor of the line, after the decoder: it waits for the line alone and never for a
client, so the line stands still for nobody. Its recipients are plain functions.
"""

import contextlib
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from actors.runtime.channel import Batch, Channel
from actors.sessions.admission import Admission
from pipeline.values import AgentFrame, Frame, LaneClosed, LaneFailed, Text

BUDGET_S: Final = 0.030  # encode + step + decode of one frame


class Recipient(Protocol):
    """Who holds a lane."""

    def deliver(self, frame: AgentFrame) -> None:
        """Take what one step released."""
        ...

    def lane_closed(self, text: Iterable[Text]) -> None:
        """Take the last words; nothing follows."""
        ...

    def left_out(self, index: int, before: str) -> None:
        """A frame was left out before a stage: nothing will come of it."""
        ...

    def lane_failed(self, stage: str) -> None:
        """A model failed on the lane; nothing follows but its closing."""
        ...


class Delivery:
    """From the decoder's channel to sessions. `frames` counts steps, `over_budget` those that took longer."""

    def __init__(self, channel: Channel[AgentFrame], admission: Admission) -> None:
        self._channel = channel
        self._admission = admission
        self._recipients: dict[int, Recipient] = {}
        self.frames = 0
        self.over_budget = 0

    def attach(self, lane: int, recipient: Recipient) -> None:
        """From now on the lane is this recipient's, until it comes out closed."""
        self._recipients[lane] = recipient

    def note_leak(self, before: str, frame: Frame) -> None:
        """A channel of the line left a frame out: its session is told, at once."""
        self._recipients[frame.lane].left_out(frame.index, before)

    async def run(self) -> None:
        """Deliver until the line has ended."""
        with contextlib.suppress(trio.EndOfChannel):
            while True:
                self._deliver(await self._channel.take_batch())

    def _deliver(self, batch: Batch[AgentFrame]) -> None:
        for event in batch.events:
            match event:
                case LaneClosed(lane, text):
                    self._recipients.pop(lane).lane_closed(text)
                    self._admission.release(lane)
                case LaneFailed(lane, stage):
                    self._recipients[lane].lane_failed(stage)
        for frame in batch.frames:
            self.frames += 1
            self.over_budget += frame.batch_s > BUDGET_S
            self._recipients[frame.lane].deliver(frame)
