"""The encoder stage: Mimi's encoder with its state for every lane."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline import backend
from pipeline.models.compiled.mimi import CompiledMimi
from pipeline.models.mimi import Mimi
from pipeline.stages.batch import bucket_widths
from pipeline.stages.codec import CodecStage, Direction
from pipeline.units import FRAME_SAMPLES


class EncoderStage(CodecStage):
    """User frames in, codes out."""

    def __init__(self, mimi: Mimi, lanes: int, *, compiles: bool | None = None) -> None:
        """State for `lanes` lanes and the scratch row; every width of a batch is computed once to warm up.

        `compiles`: whether to use compiled functions; by default, as the backend decides.
        """
        compiled = backend.prepare().compiles if compiles is None else compiles
        super().__init__("encoder", mimi, mimi.encoder_state(lanes + 1), compiled=compiled)
        self._encode: Direction
        if compiled:
            codec = CompiledMimi(mimi, lanes, mimi.num_codebooks)
            self._state = codec.warmup_encoder(self._state)
            self._encode = codec.encode
        else:
            self._encode = partial(mimi.encode, schedule=self._schedule)
            for width in bucket_widths(lanes):
                rows = np.full(width, self._scratch, np.int32)
                self._run(self._encode, rows, np.zeros((width, 1, FRAME_SAMPLES), np.float32))

    def encode(self, lanes: Sequence[int], pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """One frame per lane: `pcm [n, 1920]` → `codes [n, K]`."""
        codes: npt.NDArray[np.int32] = self._batch(self._encode, lanes, pcm[:, None])[..., 0]
        return codes
