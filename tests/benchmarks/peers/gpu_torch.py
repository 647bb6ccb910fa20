"""Drives the official PyTorch package (`moshi`) on a GPU, with the CUDA graphs it makes by itself.

Codes stay on the device from stage to stage, as in its own server; text comes to the host.
"""

from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from gpu_frames import drive
from moshi.models.compression import MimiModel
from moshi.models.lm import LMGen, LMModel
from moshi.models.loaders import get_mimi, get_moshi_lm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class TorchChain:
    def __init__(self, mimi: MimiModel, lm: LMModel, width: int, stack: ExitStack) -> None:
        self._mimi = mimi
        self._generator = LMGen(lm)
        self._user_codebooks = self._generator.lm_model.n_q - self._generator.lm_model.dep_q
        stack.enter_context(mimi.streaming(width))
        stack.enter_context(self._generator.streaming(width))

    @torch.no_grad()
    def encode(self, pcm: np.ndarray) -> torch.Tensor:
        codes = self._mimi.encode(torch.from_numpy(pcm).to(DEVICE)[:, None])
        wait()
        return codes

    @torch.no_grad()
    def step(self, codes: torch.Tensor) -> torch.Tensor | None:
        tokens = self._generator.step(codes[:, : self._user_codebooks])
        wait()
        if tokens is None:
            return None
        tokens[:, 0].cpu()
        return tokens[:, 1:]

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> np.ndarray:
        return self._mimi.decode(codes)[:, 0].cpu().numpy()

    def fill(self) -> bool:
        return False  # its attention looks at the whole ring from the first frame on


class Torch:
    def __init__(self, job: dict[str, Any]) -> None:
        lm = job["lm_config"]
        self.about = {name: version(name) for name in ("torch", "moshi")} | {"device": DEVICE}
        if DEVICE == "cuda":
            self.about["name"] = torch.cuda.get_device_name()
        self._lm = get_moshi_lm(None, lm, device=DEVICE, dtype=torch.bfloat16)
        codebooks = max(lm["dep_q"], lm["n_q"] - lm["dep_q"])
        self._mimi = get_mimi(None, device=DEVICE, num_codebooks=codebooks)
        self._stack = ExitStack()

    def open(self, width: int) -> TorchChain:
        self._stack.close()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return TorchChain(self._mimi, self._lm, width, self._stack)

    def memory_bytes(self) -> int:
        return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


if __name__ == "__main__":
    drive(Torch)
