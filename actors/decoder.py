"""The Mimi decoder: decodes each column of agent codes to 80 ms of audio, and skips frames that are late.

A frame past its deadline is not decoded: the decoder's state does not advance, nothing is sent for
the frame, and the next frame that is decoded fades in. The language model's state is complete.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from actors.runtime.late_frames import LatenessTracker
from pipeline.audio.fade import fade_in
from pipeline.values import (
    AgentCodes,
    AgentFrame,
    Codes,
    LaneClosed,
    LaneEvent,
    LaneOpened,
    LanePrompted,
    Pcm,
    SamplingParams,
)


class DecoderStage(Protocol):
    """Mimi's decoder with its state for every lane (`pipeline.stages.decoder`); used on one thread."""

    def open(self, lane: int, sampling: SamplingParams) -> None:
        """Reset the lane's row for a new session."""
        ...

    def close(self, lane: int) -> None:
        """End the lane's session."""
        ...

    def begin(self, lane: int, *, prompted: bool) -> None:
        """Reset the lane's row; `prompted`: to behind the silence with which a prompt ends."""
        ...

    def decode(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """`codes [w, dep_q]` → `pcm [w, 1920]`, row i for `lanes[i]`."""
        ...


class Decoder:
    """Decodes frames on the decoder's thread. A step without codes becomes a frame without audio."""

    def __init__(self, stage: DecoderStage) -> None:
        self._stage = stage
        self._lateness: dict[int, LatenessTracker] = {}

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open, begin or close the lane; sampling does not affect a codec."""
        match event:
            case LaneOpened(lane, sampling):
                self._lateness[lane] = LatenessTracker()
                self._stage.open(lane, sampling)
            case LanePrompted(lane, prompt):
                self._stage.begin(lane, prompted=prompt is not None)
            case LaneClosed(lane):
                del self._lateness[lane]
                self._stage.close(lane)
        return event

    def computes(self, frame: AgentCodes) -> bool:
        """Whether the frame has codes: during the model's delay there is nothing to decode."""
        return frame.codes is not None

    def run(self, frames: Sequence[AgentCodes], now_s: float) -> Sequence[AgentFrame]:
        """Decode all frames that have codes and are not too late in one call."""
        due: dict[int, Codes] = {}
        late: set[int] = set()
        resumed: set[int] = set()  # lanes whose previous frame was skipped
        for frame in frames:
            if frame.codes is None:
                continue
            lateness = self._lateness[frame.lane]
            had_skipped = lateness.skipped
            if lateness.skips(now_s - frame.header.due_s):
                late.add(frame.lane)
                continue
            due[frame.lane] = frame.codes
            if had_skipped:
                resumed.add(frame.lane)
        sound: dict[int, Pcm] = {}
        if due:
            sound = dict(zip(due, self._stage.decode(list(due), np.stack(list(due.values()))), strict=True))
        for lane in resumed:
            sound[lane] = fade_in(sound[lane])
        return [
            AgentFrame(frame.header, frame.text, sound.get(frame.lane), frame.lane in late)
            for frame in frames
        ]
