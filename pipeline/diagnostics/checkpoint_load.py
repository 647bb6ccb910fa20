"""How a checkpoint is loaded: in what time, beside reading its file, and at what memory, beside its size.

The checkpoint is random, of any architecture, made in a temporary folder and removed. What
the system holds of the file in memory is given up first, where the system can be asked to,
so that both times are those of a first start. Memory is anonymous memory: pages of files
can be had back at any time and are left out.
"""

import math
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import psutil

from pipeline import backend
from pipeline.models import random_init
from pipeline.models.bundle import load_lm
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.lm import LmModel

# A billion parameters: 2 GB in bfloat16, as checkpoints are published.
ARCHITECTURE: Final = parse_lm_config(
    {
        "dim": 1536, "num_heads": 24, "num_layers": 18, "hidden_scale": 4.125, "context": 3000,
        "n_q": 16, "dep_q": 8, "card": 2048, "text_card": 32_000, "delays": [0, *([0] + [1] * 7) * 2],
        "positional_embedding": "rope", "gating": "silu", "norm": "rms_norm_f32",
        "depformer_dim": 768, "depformer_num_heads": 12, "depformer_num_layers": 6,
        "depformer_dim_feedforward": 3072, "depformer_pos_emb": "none",
        "depformer_multi_linear": True, "depformer_weights_per_step": True,
    }
)  # fmt: skip
_STEPS: Final = 10
_ROUNDS: Final = 3  # of which the fastest counts: whatever else the machine does only slows them down
_BLOCK_BYTES: Final = 16 * 2**20
_SAMPLE_S: Final = 0.005


class _Peak:
    """The most anonymous memory there was while this lasted, sampled."""

    def __enter__(self) -> Self:
        self.before_bytes = self.peak_bytes = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.after_bytes = anonymous_bytes()
        self.peak_bytes = max(self.peak_bytes, self.after_bytes)


def anonymous_bytes() -> int:
    """Memory of this process that is no file's; all of it where the system does not tell them apart."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    resident: int = psutil.Process().memory_info().rss
    return resident


def _forget(path: Path) -> bool:
    """Have the system drop what it holds of a file; whether it could be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _read_s(path: Path) -> float:
    block = bytearray(_BLOCK_BYTES)
    began_s = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
    return time.perf_counter() - began_s


def _make(path: Path, config: LmConfig) -> None:
    random_init.write_checkpoint(path, random_init.lm_tensors(config), seed=1, dtype="BF16")


def measure_load(config: LmConfig) -> dict[str, Any]:
    """Make a random bfloat16 checkpoint of `config`, read its file, load it, and take a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        # In a process of its own, whose freed memory is not there to be used again by this one.
        maker = multiprocessing.get_context("spawn").Process(target=_make, args=(path, config))
        maker.start()
        maker.join()
        file_bytes = path.stat().st_size
        # A virtual machine gets memory when it first touches it, which takes longer than reading.
        np.ones(min(3 * file_bytes, backend.free_bytes() // 2), np.uint8)
        cold = _forget(path)
        with _Peak() as memory:
            model = load_lm(config, path)
        read_s, load_s = [], []
        for _ in range(_ROUNDS):
            del model
            _forget(path)
            read_s.append(_read_s(path))
            _forget(path)
            began_s = time.perf_counter()
            model = load_lm(config, path)
            load_s.append(time.perf_counter() - began_s)
    parameters = sum(math.prod(shape) for shape in model.parameter_shapes().values())
    return {
        "kept": backend.prepare().compute_dtype,
        "cold": cold,
        "parameters": parameters,
        "file_mib": _mib(file_bytes),
        "kept_mib": _mib(parameters * model.dtype.size),
        "peak_mib": _mib(memory.peak_bytes - memory.before_bytes),
        "read_s": round(min(read_s), 2),
        "load_s": round(min(load_s), 2),
        "step_ms": round(_step_s(model) * 1000, 1),
    }


def _step_s(model: LmModel) -> float:
    """The median time of a step of one lane."""
    state, lanes = model.state(2), np.array([0], np.int32)
    text = np.full((1, 1), model.config.text_card, np.int32)
    audio = np.full((1, model.config.n_q, 1), model.config.card, np.int32)
    times_s = []
    for _ in range(_STEPS):
        began_s = time.perf_counter()
        token, codes, state = model.step(text, audio, state, lanes)
        np.array(token), np.array(codes)
        times_s.append(time.perf_counter() - began_s)
    return float(np.median(times_s))


def _mib(size_bytes: int) -> float:
    return round(size_bytes / 2**20, 1)
