"""The Moshi stepper: takes one step of the language model for each column of user codes."""

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.values import (
    AgentCodes,
    LaneClosed,
    LaneConfigured,
    LaneEvent,
    LaneOpened,
    LanePrompted,
    Prompt,
    SamplingParams,
    StepResult,
    Text,
    UserCodes,
)


class StepperStage(Protocol):
    """The language model with its state for every lane (`pipeline.stages.stepper`); used on one thread."""

    def open(self, lane: int, sampling: SamplingParams) -> None:
        """Reset the lane's row for a new session."""
        ...

    def configure(self, lane: int, sampling: SamplingParams) -> None:
        """Change the lane's sampling from its next step on."""
        ...

    def advance_prompt(self, lane: int, prompt: Prompt, positions: int) -> bool:
        """Compute up to `positions` more of a prompt in a lane without steps; whether it is complete."""
        ...

    def begin(self, lane: int, prompt: Prompt | None) -> None:
        """Let the lane's session begin with the prompt, before its first step; None: without one."""
        ...

    def close(self, lane: int) -> tuple[Text, ...]:
        """End the lane's session; returns the text of the utterance that this ends."""
        ...

    def step(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> Sequence[StepResult]:
        """`codes [w, K]` → w results, result i for `lanes[i]`."""
        ...

    def warmup(self, *, reset: bool) -> None:
        """Take one step on the scratch row, after resetting it if `reset`."""
        ...


class Stepper:
    """Takes steps on the stepper's thread."""

    def __init__(self, stage: StepperStage) -> None:
        self._stage = stage

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open, begin, configure or close the lane; the event of a closing lane carries its last text."""
        match event:
            case LaneOpened(lane, sampling):
                self._stage.open(lane, sampling)
            case LanePrompted(lane, prompt):
                self._stage.begin(lane, prompt)
            case LaneConfigured(lane, sampling):
                self._stage.configure(lane, sampling)
            case LaneClosed(lane):
                return LaneClosed(lane, self._stage.close(lane))
        return event

    def warmup(self, *, reset: bool) -> float:
        """Take one step on the scratch row; returns how long it took, in seconds."""
        began_s = time.perf_counter()
        self._stage.warmup(reset=reset)
        return time.perf_counter() - began_s

    def advance_prompt(self, lane: int, prompt: Prompt, positions: int) -> tuple[bool, float]:
        """Compute the next slice of a prompt; whether it is complete, and how long the slice took."""
        began_s = time.perf_counter()
        complete = self._stage.advance_prompt(lane, prompt, positions)
        return complete, time.perf_counter() - began_s

    def computes(self, frame: UserCodes) -> bool:  # noqa: ARG002 - true for all frames
        """Every frame takes a step."""
        return True

    def run(self, frames: Sequence[UserCodes], now_s: float) -> Sequence[AgentCodes]:  # noqa: ARG002 - late frames take a step, too, so that the state stays complete
        """Take the steps of the whole batch in one call."""
        steps = self._stage.step([frame.lane for frame in frames], np.stack([f.codes for f in frames]))
        return [
            AgentCodes(frame.header, step.token, step.text, step.codes)
            for frame, step in zip(frames, steps, strict=True)
        ]
