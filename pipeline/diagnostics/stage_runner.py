"""Runs the three stages of a model on one thread, for the commands that measure without a server."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline import backend
from pipeline.stages.model_stages import ModelStages
from pipeline.values import Pcm, SamplingParams


class StageRunner:
    """The stages of a model with every lane open, run on the calling thread."""

    def __init__(self, stages: ModelStages) -> None:
        self.lanes = stages.lanes
        self._encoder = stages.load_encoder()
        self._stepper = stages.load_stepper()
        self._decoder = stages.load_decoder()
        for lane in range(stages.lanes):
            for stage in (self._encoder, self._stepper, self._decoder):
                stage.open(lane, SamplingParams(seed=lane))

    @classmethod
    @contextlib.contextmanager
    def of(cls, stages: ModelStages) -> "Iterator[StageRunner]":
        """Load the stages with this thread pinned to the cores that a server would use for them."""
        with backend.pinned_to(backend.core_affinity()[-1]):
            yield cls(stages)

    def time_frame(self, lanes: Sequence[int], pcm: Pcm) -> tuple[float, float, float]:
        """Process one frame of each of `lanes`: seconds to encode, step and decode."""
        began = time.perf_counter()
        codes = self._encoder.encode(lanes, pcm)
        encoded = time.perf_counter()
        steps = self._stepper.step(lanes, codes)
        stepped = time.perf_counter()
        agent = [step.codes for step in steps if step.codes is not None]
        if len(agent) == len(lanes):
            self._decoder.decode(lanes, np.stack(agent))
        return encoded - began, stepped - encoded, time.perf_counter() - stepped
