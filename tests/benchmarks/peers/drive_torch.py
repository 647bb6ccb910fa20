"""Drives the official PyTorch package (`moshi`), on its environment's interpreter.

Three small functions of it are compiled by default. On a CPU, calling them costs more than they
save, so compilation is off unless NO_TORCH_COMPILE is set to an empty string.
"""

import os
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from driving import drive, read_job

os.environ.setdefault("NO_TORCH_COMPILE", "1")  # read when the package is imported

from moshi.models.compression import MimiModel
from moshi.models.lm import LMGen, LMModel
from moshi.models.loaders import get_mimi, get_moshi_lm


class Codec:
    def __init__(self, mimi: MimiModel) -> None:
        self._mimi = mimi

    @torch.no_grad()
    def encode(self, pcm: np.ndarray) -> np.ndarray:
        return self._mimi.encode(torch.from_numpy(pcm)[:, None])[..., 0].numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self._mimi.decode(torch.from_numpy(codes).long()[..., None])[:, 0].numpy()


class Language:
    def __init__(self, model: LMModel, *, greedy: bool) -> None:
        self._text = torch.zeros(0)
        self.generator = LMGen(model, use_sampling=not greedy, on_text_hook=self._set_text)

    def _set_text(self, token: torch.Tensor) -> None:
        self._text = token

    def step(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        out = self.generator.step(torch.from_numpy(codes).long()[..., None])
        return self._text.numpy(), None if out is None else out[:, 1:, 0].numpy()


class Driver:
    early_frames = 0

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.versions = {name: version(name) for name in ("torch", "moshi")}
        self._job = job
        self._codec, self._language = ExitStack(), ExitStack()

    @cached_property
    def _mimi(self) -> MimiModel:
        return get_mimi(self._job["mimi"], num_codebooks=self._job["codebooks"])

    @cached_property
    def _lm(self) -> LMModel:
        dtype = torch.bfloat16 if "bf16" in self._job["options"] else torch.float32
        return get_moshi_lm(self._job["lm"], self._job["lm_config"], dtype=dtype)

    def codec(self, width: int) -> Codec:
        self._codec.close()  # forget, or the model continues where it was
        self._codec.enter_context(self._mimi.streaming(width))
        return Codec(self._mimi)

    def language(self, width: int, *, greedy: bool) -> Language:
        self._language.close()
        language = Language(self._lm, greedy=greedy)
        self._language.enter_context(language.generator.streaming(width))
        return language


if __name__ == "__main__":
    drive(Driver, read_job())
