"""Drives the official codec in Rust (`rustymimi`), on its environment's interpreter."""

from importlib.metadata import version
from typing import Any

import numpy as np
import rustymimi
from driving import Language, drive, read_job


class Codec:
    """The batch width is that of the first input."""

    def __init__(self, path: str, codebooks: int) -> None:
        self._tokenizer = rustymimi.Tokenizer(path, num_codebooks=codebooks)

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        return self._tokenizer.encode_step(pcm[:, None])[..., 0].astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self._tokenizer.decode_step(codes.astype(np.uint32)[..., None])[:, 0]


class Driver:
    early_frames = 0

    def __init__(self, job: dict[str, Any]) -> None:
        self.versions = {"rustymimi": version("rustymimi")}
        self._job = job

    def codec(self, width: int) -> Codec:
        return Codec(self._job["mimi"], self._job["codebooks"])

    def language(self, width: int, *, greedy: bool) -> Language:
        raise NotImplementedError("rustymimi is a codec")


if __name__ == "__main__":
    drive(Driver, read_job())
