"""Drives the official MLX package (`moshi_mlx`), on its environment's interpreter.

It uses the user's audio one step later than the PyTorch package, so it gets each frame one step
earlier: then all contenders compute the same tokens. In the chain its codec is rustymimi's,
as in the package's own programs; alone, its codec in MLX is measured.
"""

import ctypes
import sys
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from driving import Codec, drive, read_job

JOB = read_job()
if "mkl" in JOB["options"]:  # before MLX looks for a BLAS
    ctypes.CDLL(str(max(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))), mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx  # noqa: E402
from drive_rustymimi import Codec as RustCodec  # noqa: E402
from moshi_mlx.models.generate import LmGen  # noqa: E402
from moshi_mlx.models.lm import Lm, LmConfig  # noqa: E402
from moshi_mlx.models.mimi import Mimi, mimi_202407  # noqa: E402
from moshi_mlx.utils.sampling import Sampler  # noqa: E402

LONGEST_STEPS = 4096


class MlxCodec:
    def __init__(self, mimi: Mimi) -> None:
        self._mimi = mimi

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        return np.array(self._mimi.encode_step(mx.array(pcm[:, None])))[..., 0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.array(self._mimi.decode_step(mx.array(codes[..., None])))[:, 0]


class Language:
    def __init__(self, model: Lm, width: int, *, greedy: bool) -> None:
        text, audio = (Sampler(temp=0), Sampler(temp=0)) if greedy else (
            Sampler(temp=0.7, top_k=25), Sampler(temp=0.8, top_k=250)
        )  # fmt: skip
        self._generator = LmGen(model, LONGEST_STEPS, text, audio, batch_size=width)

    def step(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        text, _ = self._generator.step(mx.array(codes))
        agent = self._generator.last_audio_tokens()
        mx.eval(text, [] if agent is None else agent)
        return np.array(text)[:, 0], None if agent is None else np.array(agent)


class Driver:
    early_frames = 1

    def __init__(self, job: dict[str, Any]) -> None:
        names = ("mlx", "moshi_mlx", *(("mkl",) if "mkl" in job["options"] else ()))
        self.versions = {name: version(name) for name in names}
        self._job = job
        if job["kind"] == "chain":
            self.versions["rustymimi"] = version("rustymimi")

    @cached_property
    def _mimi(self) -> Mimi:
        mimi = Mimi(mimi_202407(self._job["codebooks"]))
        return mimi.load_pytorch_weights(
            self._job["mimi"], strict=False
        )  # as its programs do: fewer codebooks

    @cached_property
    def _lm(self) -> Lm:
        config = LmConfig.from_config_dict(self._job["lm_config"])
        return Lm(config).load_pytorch_weights(self._job["lm"], config, strict=True)

    def codec(self, width: int) -> Codec:
        if self._job["kind"] == "chain":
            return RustCodec(self._job["mimi"], self._job["codebooks"])
        self._mimi.reset_all()
        return MlxCodec(self._mimi)

    def language(self, width: int, *, greedy: bool) -> Language:
        for cache in self._lm.transformer_cache:
            cache.reset()
        return Language(self._lm, width, greedy=greedy)


if __name__ == "__main__":
    drive(Driver, JOB)
