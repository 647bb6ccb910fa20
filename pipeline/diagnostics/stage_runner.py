"""The three stages of a chain on one thread, for the commands that measure them without a server."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline import backend
from pipeline.stages.chain import Chain
from pipeline.values import Pcm, Sampling


class Rig:
    """The stages with every lane open, on this thread, which meanwhile stays where a server's stage would."""

    def __init__(self, chain: Chain) -> None:
        self.lanes = chain.lanes
        self._encoder = chain.load_encoder()
        self._stepper = chain.load_stepper()
        self._decoder = chain.load_decoder()
        for lane in range(chain.lanes):
            for stage in (self._encoder, self._stepper, self._decoder):
                stage.open(lane, Sampling(seed=lane))

    @classmethod
    @contextlib.contextmanager
    def of(cls, chain: Chain) -> "Iterator[Rig]":
        """Load the stages; afterwards the thread may go where it likes."""
        with backend.staying_at(backend.homes()[-1]):
            yield cls(chain)

    def frame(self, lanes: Sequence[int], pcm: Pcm) -> tuple[float, float, float]:
        """One frame for each of `lanes`: seconds to encode, to step, to decode."""
        began = time.perf_counter()
        codes = self._encoder.encode(lanes, pcm)
        encoded = time.perf_counter()
        steps = self._stepper.step(lanes, codes)
        stepped = time.perf_counter()
        agent = [step.codes for step in steps if step.codes is not None]
        if len(agent) == len(lanes):
            self._decoder.decode(lanes, np.stack(agent))
        return encoded - began, stepped - encoded, time.perf_counter() - stepped
