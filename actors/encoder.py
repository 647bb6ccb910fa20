"""The Mimi encoder: encodes each 80 ms of microphone audio to one column of codes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.values import LaneClosed, LaneEvent, LaneOpened, SamplingParams, UserCodes, UserFrame


class EncoderStage(Protocol):
    """Mimi's encoder with its state for every lane (`pipeline.stages.encoder`); used on one thread."""

    def open(self, lane: int, sampling: SamplingParams) -> None:
        """Reset the lane's row for a new session."""
        ...

    def close(self, lane: int) -> None:
        """End the lane's session."""
        ...

    def encode(self, lanes: Sequence[int], pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """`pcm [w, 1920]` → `codes [w, K]`, row i for `lanes[i]`."""
        ...


class Encoder:
    """Encodes frames on the encoder's thread."""

    def __init__(self, stage: EncoderStage) -> None:
        self._stage = stage

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open or close the lane; sampling does not affect a codec."""
        match event:
            case LaneOpened(lane, sampling):
                self._stage.open(lane, sampling)
            case LaneClosed(lane):
                self._stage.close(lane)
        return event

    def computes(self, frame: UserFrame) -> bool:  # noqa: ARG002 - true for all frames
        """Every frame is encoded."""
        return True

    def run(self, frames: Sequence[UserFrame], now_s: float) -> Sequence[UserCodes]:  # noqa: ARG002 - late frames are encoded, too, so that the state stays complete
        """Encode the whole batch in one call."""
        codes = self._stage.encode([frame.lane for frame in frames], np.stack([f.pcm for f in frames]))
        return [UserCodes(frame.header, row) for frame, row in zip(frames, codes, strict=True)]
