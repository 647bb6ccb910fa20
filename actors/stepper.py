"""The Moshi stepper: each column of user codes is one step of the language model."""

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.values import (
    AgentCodes,
    Codes,
    LaneClosed,
    LaneConfigured,
    LaneEvent,
    LaneOpened,
    SamplingParams,
    Text,
    UserCodes,
)


class Step(Protocol):
    """What one lane's step produced; `codes [dep_q]` is None until the model's delay has passed."""

    @property
    def token(self) -> int:
        """The raw text token."""
        ...

    @property
    def text(self) -> tuple[Text, ...]:
        """What became sayable with it."""
        ...

    @property
    def codes(self) -> Codes | None:
        """One whole agent frame."""
        ...


class StepperStage(Protocol):
    """What the language model remembers of every lane; used on one thread."""

    def open(self, lane: int, sampling: SamplingParams) -> None:
        """Reset the lane's row."""
        ...

    def configure(self, lane: int, sampling: SamplingParams) -> None:
        """Draw the lane's tokens differently from its next step on."""
        ...

    def close(self, lane: int) -> tuple[Text, ...]:
        """Forget the lane; give the utterance that this closes."""
        ...

    def step(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> Sequence[Step]:
        """`codes [w, K]` → w steps, step i for `lanes[i]`."""
        ...

    def warmup(self, *, anew: bool) -> None:
        """One step of nobody's lane, after the last one or from the beginning."""
        ...


class Stepper:
    """Codes to codes and text, on the stepper's thread."""

    def __init__(self, stage: StepperStage) -> None:
        self._stage = stage

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open, configure or close the lane; a closing lane takes its last words with it."""
        match event:
            case LaneOpened(lane, sampling):
                self._stage.open(lane, sampling)
            case LaneConfigured(lane, sampling):
                self._stage.configure(lane, sampling)
            case LaneClosed(lane):
                return LaneClosed(lane, self._stage.close(lane))
        return event

    def warmup(self, *, anew: bool) -> float:
        """One step of nobody's lane; how long it took, in seconds."""
        began_s = time.perf_counter()
        self._stage.warmup(anew=anew)
        return time.perf_counter() - began_s

    def computes(self, frame: UserCodes) -> bool:  # noqa: ARG002 - every frame does
        """Every frame is a step."""
        return True

    def run(self, frames: Sequence[UserCodes], now_s: float) -> Sequence[AgentCodes]:  # noqa: ARG002 - none is ever too late for memory
        """One call for the whole batch."""
        steps = self._stage.step([frame.lane for frame in frames], np.stack([f.codes for f in frames]))
        return [
            AgentCodes(frame.header, step.token, step.text, step.codes)
            for frame, step in zip(frames, steps, strict=True)
        ]
