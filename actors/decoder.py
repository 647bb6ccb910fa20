"""The Mimi decoder: each column of agent codes becomes 80 ms of loudspeaker, unless it is too late for that.

A frame past its deadline is not decoded: the decoder's memory stands still, nothing is sent for
the frame, and the next one that is decoded fades in. What the language model remembers is whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.audio.fade import fade_in
from pipeline.values import (
    AgentCodes,
    AgentFrame,
    Codes,
    LaneClosed,
    LaneEvent,
    LaneOpened,
    Pcm,
    SamplingParams,
)


class DecoderStage(Protocol):
    """What the decoder remembers of every lane; used on one thread."""

    def open(self, lane: int, sampling: SamplingParams) -> None:
        """Reset the lane's row."""
        ...

    def close(self, lane: int) -> None:
        """Forget the lane."""
        ...

    def decode(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """`codes [w, dep_q]` → `pcm [w, 1920]`, row i for `lanes[i]`."""
        ...


# A listener whose answers all come late by as much hears no gap. Only what is later than it was
# lately is too late; a session begins with patience for a server that is merely slow.
PATIENCE_S: Final = 0.160
FORGETTING_S: Final = 0.001  # of patience, with each frame: 80 ms are forgotten in 6.4 s
SKIPS_IN_A_ROW: Final = 5  # then being late is the state of things, and silence would not mend it


@dataclass(slots=True)
class _Listener:
    """How late one lane's frames may be now, and how many were skipped since one was not."""

    patience_s: float = PATIENCE_S
    skipped: int = 0

    def is_past(self, late_s: float) -> bool:
        """Whether a frame that is late by this much (or early) is to be skipped."""
        if self.patience_s < late_s and (self.skipped < SKIPS_IN_A_ROW or late_s == math.inf):
            self.skipped += 1
            if late_s != math.inf:  # as from a server that is late by now more, now less
                self.patience_s += (late_s - self.patience_s) / 4
            return True
        self.skipped = 0
        self.patience_s = max(0.0, late_s, self.patience_s - FORGETTING_S)
        return False


class Decoder:
    """Codes to frames, on the decoder's thread. A step without codes is a frame without sound."""

    def __init__(self, stage: DecoderStage) -> None:
        self._stage = stage
        self._listeners: dict[int, _Listener] = {}

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open or close the lane; how tokens are drawn is no concern of a codec."""
        match event:
            case LaneOpened(lane, sampling):
                self._listeners[lane] = _Listener()
                self._stage.open(lane, sampling)
            case LaneClosed(lane):
                del self._listeners[lane]
                self._stage.close(lane)
        return event

    def computes(self, frame: AgentCodes) -> bool:
        """Frames without codes pass by: while the model's delay fills there is nothing to decode."""
        return frame.codes is not None

    def run(self, frames: Sequence[AgentCodes], now_s: float) -> Sequence[AgentFrame]:
        """One call for all that have codes and are not past their deadline."""
        due: dict[int, Codes] = {}
        late: set[int] = set()
        resumed: set[int] = set()  # lanes that sound again
        for frame in frames:
            if frame.codes is None:
                continue
            listener = self._listeners[frame.lane]
            had_skipped = listener.skipped
            if listener.is_past(now_s - frame.header.due_s):
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
