"""The Mimi decoder: each column of agent codes becomes 80 ms of loudspeaker."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from actors.stage import header
from pipeline.values import AgentCodes, AgentFrame, LaneClosed, LaneEvent, LaneOpened, Sampling


class DecoderStage(Protocol):
    """What the decoder remembers of every lane; used on one thread."""

    def open(self, lane: int, sampling: Sampling) -> None:
        """Reset the lane's row."""
        ...

    def close(self, lane: int) -> None:
        """Forget the lane."""
        ...

    def decode(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """`codes [w, dep_q]` → `pcm [w, 1920]`, row i for `lanes[i]`."""
        ...


class Decoder:
    """Codes to frames, on the decoder's thread. A step without codes is a frame without sound."""

    def __init__(self, stage: DecoderStage) -> None:
        self._stage = stage

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open or close the lane; how tokens are drawn is no concern of a codec."""
        match event:
            case LaneOpened(lane, sampling):
                self._stage.open(lane, sampling)
            case LaneClosed(lane):
                self._stage.close(lane)
        return event

    def computes(self, frame: AgentCodes) -> bool:
        """Frames without codes pass by: while the model's delay fills there is nothing to decode."""
        return frame.codes is not None

    def run(self, frames: Sequence[AgentCodes]) -> Sequence[AgentFrame]:
        """One call for all that have codes."""
        lanes = [frame.lane for frame in frames if frame.codes is not None]
        codes = [frame.codes for frame in frames if frame.codes is not None]
        sound = dict(zip(lanes, self._stage.decode(lanes, np.stack(codes)), strict=True)) if lanes else {}
        return [AgentFrame(*header(frame), frame.text, sound.get(frame.lane)) for frame in frames]
