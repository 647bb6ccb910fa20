"""What the encoder and the decoder stage share: one direction of Mimi, with its state for every lane."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline import backend
from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.models.layers.attention import Lanes
from pipeline.models.mimi import Mimi, MimiState
from pipeline.stages.batch import padded, padded_rows
from pipeline.values import SamplingParams

Direction = Callable[[mx.array, MimiState, Lanes], tuple[mx.array, MimiState]]  # Mimi.encode or Mimi.decode
Scalar = TypeVar("Scalar", bound=np.generic)


class CodecStage:
    """State for `lanes` lanes and the scratch row. Used from one thread, the one that made it."""

    def __init__(self, name: str, mimi: Mimi, state: MimiState, *, compiled: bool) -> None:
        self._name = name
        self._mimi = mimi
        self._state = state
        self._scratch = len(state.conv_state) - 1
        self._schedule = EvalSchedule()
        # A compiled function assigns lanes to the slots of its batch itself.
        self._in_buckets = backend.prepare().pads_batches and not compiled

    def open(self, lane: int, sampling: SamplingParams) -> None:  # noqa: ARG002 - a codec samples nothing
        """Reset the lane's row for a new session."""
        self._state = self._mimi.reset(self._state, lane)
        evaluate(self._name, self._state.conv_state)

    def close(self, lane: int) -> None:
        """Do nothing: the row is reset when it is opened again."""

    def _batch(
        self, direction: Direction, lanes: Sequence[int], values: npt.NDArray[Scalar]
    ) -> npt.NDArray[Any]:
        """One frame for each lane: `values [n, …]`, padded as the machine needs it → results `[n, …]`."""
        rows = padded_rows(lanes, self._scratch, in_buckets=self._in_buckets)
        if len(rows) > len(lanes):  # or the scratch row's sequence, and its cost, would grow without end
            self._state = self._mimi.reset(self._state, self._scratch)
        return self._run(direction, rows, padded(values, len(rows)))[: len(lanes)]

    def _run(self, direction: Direction, rows: Lanes, values: npt.NDArray[Scalar]) -> npt.NDArray[Any]:
        self._schedule.clear()  # of a call that failed
        result, self._state = direction(mx.array(values), self._state, rows)
        evaluate(self._name, result, state=self._state, schedule=self._schedule)
        return np.array(result)
