"""The decoder stage: Mimi's decoder with its state for every lane."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline import backend
from pipeline.models.compiled.mimi import CompiledMimi
from pipeline.models.evaluation import evaluate
from pipeline.models.mimi import Mimi
from pipeline.models.prompt import SILENCE
from pipeline.stages.batch import bucket_widths
from pipeline.stages.codec import CodecStage, Direction


class DecoderStage(CodecStage):
    """Agent codes in, sound out."""

    def __init__(self, mimi: Mimi, lanes: int, codebooks: int, *, compiles: bool | None = None) -> None:
        """State for `lanes` lanes and the scratch row; every width of a batch is computed once to warm up.

        `compiles`: whether to use compiled functions; by default, as the backend decides.
        """
        compiled = backend.prepare().compiles if compiles is None else compiles
        super().__init__("decoder", mimi, mimi.decoder_state(lanes + 1), compiled=compiled)
        self._decode: Direction
        if compiled:
            codec = CompiledMimi(mimi, lanes, codebooks)
            self._state = codec.warmup_decoder(self._state)
            self._decode = codec.decode
        else:
            self._decode = partial(mimi.decode, schedule=self._schedule)
            for width in bucket_widths(lanes):
                rows = np.full(width, self._scratch, np.int32)
                self._run(self._decode, rows, np.zeros((width, codebooks, 1), np.int32))

    def begin(self, lane: int, *, prompted: bool) -> None:
        """Reset the lane's row; `prompted`: behind the silent frame with which a prompt ends.

        The official code decodes and sends that frame; here it is not sent, and the frames that follow are
        the same sample for sample.
        """
        self._state = self._mimi.reset(self._state, lane)
        evaluate(self._name, self._state.conv_state)
        if prompted:
            self.decode([lane], np.array([SILENCE], np.int32))

    def decode(self, lanes: Sequence[int], codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """One frame per lane: `codes [n, dep_q]` → `pcm [n, 1920]`."""
        pcm: npt.NDArray[np.float32] = self._batch(self._decode, lanes, codes[..., None])[:, 0]
        return pcm
