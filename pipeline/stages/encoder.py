"""The encoder's memory: Mimi's encoder state for every lane."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.backend import prepare
from pipeline.models.compiled.mimi import CompiledMimi
from pipeline.models.evaluation import settle
from pipeline.models.mimi import Mimi
from pipeline.stages.batch import IN_BUCKETS, bucket_widths, padded, padded_rows
from pipeline.units import FRAME_SAMPLES
from pipeline.values import Codes, Pcm, Sampling


class EncoderStage:
    """User frames in, codes out. Used from one thread, the one that made it."""

    def __init__(self, mimi: Mimi, lanes: int, *, compiles: bool | None = None) -> None:
        """State for `lanes` lanes and the scratch row; every width of a batch is computed once, to be warm.

        `compiles`: whether by compiled graphs; unless it is said, as this machine does.
        """
        self._mimi = mimi
        self._scratch = lanes
        self._state = mimi.encoder_state(lanes + 1)
        self._codec: Mimi | CompiledMimi = mimi
        self._in_buckets = IN_BUCKETS
        if prepare().compiles if compiles is None else compiles:
            self._codec = CompiledMimi(mimi, lanes, mimi.num_codebooks)
            self._in_buckets = False  # who sits where in a graph is the graph's business
            self._state = self._codec.warm_encoder(self._state)
        else:
            for width in bucket_widths(lanes):
                self._run(
                    np.full(width, self._scratch, np.int32), np.zeros((width, FRAME_SAMPLES), np.float32)
                )

    def open(self, lane: int, sampling: Sampling) -> None:  # noqa: ARG002 - a codec draws nothing
        """The lane's row is as if nothing had ever been heard."""
        self._state = self._mimi.reset(self._state, lane)
        settle("encoder", self._state.history)

    def close(self, lane: int) -> None:
        """Nothing to release: the row is reset when it is opened again."""

    def encode(self, lanes: Sequence[int], pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """One frame per lane: `pcm [n, 1920]` → `codes [n, K]`."""
        rows = padded_rows(lanes, self._scratch, in_buckets=self._in_buckets)
        if len(rows) > len(lanes):  # or the scratch row's history would grow, and cost, for ever
            self._state = self._mimi.reset(self._state, self._scratch)
        return self._run(rows, padded(pcm, len(rows)))[: len(lanes)]

    def _run(self, rows: npt.NDArray[np.int32], pcm: Pcm) -> Codes:
        marks: list[mx.array] = []
        codes, self._state = self._codec.encode(mx.array(pcm[:, None]), self._state, rows, marks)
        settle("encoder", codes, state=self._state, marks=marks)
        return np.array(codes)[..., 0]  # [w, K, 1] → [w, K]
