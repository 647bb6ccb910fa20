"""The server's encoder for the trainer: on a CPU with native kernels, several times as fast as PyTorch's."""

from pathlib import Path
from typing import Final

import numpy as np

from pipeline.config import read_config
from pipeline.stages.model_stages import open_stages
from pipeline.train.conversation.speakers import Codes
from pipeline.train.runs.checkpoints import RunError
from pipeline.units import FRAME_SAMPLES
from pipeline.values import GREEDY, Pcm

_SAME_CODES: Final = 0.99  # the others are ties within float32's rounding, and what follows from them


class ServedEncoder:
    """The encoder of an exported checkpoint, for so many recordings at once."""

    def __init__(self, checkpoint: Path, together: int) -> None:
        self.checkpoint = checkpoint
        self._lanes = range(together)
        self._encoder = open_stages(read_config(checkpoint, [f"lanes.max={together}"])).load_encoder()

    def encode(self, pcm: Pcm) -> Codes:
        """`[B, N · 1920]`, at most as many as were asked for → codes `[B, K, N]`."""
        lanes = list(self._lanes[: len(pcm)])
        for lane in lanes:
            self._encoder.open(lane, GREEDY)
        frames = pcm.reshape(len(pcm), -1, FRAME_SAMPLES).transpose(1, 0, 2)
        codes = [self._encoder.encode(lanes, np.ascontiguousarray(frame)) for frame in frames]
        for lane in lanes:
            self._encoder.close(lane)
        return np.stack(codes, axis=2).astype(np.int16)

    def check(self, pcm: Pcm, expected: Codes) -> None:
        """Compare with the codes `[1, K, N]` that the trainer makes of `pcm [1, N · 1920]`.

        Raises:
            RunError: it is another encoder.
        """
        same = float((self.encode(pcm) == expected).mean())
        if same < _SAME_CODES:
            raise RunError(
                f"{self.checkpoint}: only {same:.0%} of its codes are those of the run: export the run first"
            )
