"""Measures how a checkpoint is loaded: time compared with reading the file, memory compared with its size.

The checkpoint has random weights of a given architecture and is removed afterwards. Its pages are dropped
from the page cache before each read, where the system allows it, so that both times are those of a cold
start. Only anonymous memory counts: the system can reclaim file pages at any time.
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

# One billion parameters: 2 GB in bfloat16, the usual format of checkpoints.
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
_ROUNDS: Final = 3  # the fastest counts, because other load can only slow one down
_BLOCK_BYTES: Final = 16 * 2**20
_SAMPLE_S: Final = 0.005


class _PeakMemory:
    """Samples the anonymous memory of this process and records its peak within the context."""

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
    """Anonymous memory of this process; all resident memory where the system has no separate figure."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    resident: int = psutil.Process().memory_info().rss
    return resident


def _drop_page_cache(path: Path) -> bool:
    """Drop a file from the page cache; False if the system does not support it."""
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


def _write_random(path: Path, config: LmConfig) -> None:
    random_init.write_checkpoint(path, random_init.lm_tensors(config), seed=1, dtype="BF16")


def measure_load(config: LmConfig) -> dict[str, Any]:
    """Write a random bfloat16 checkpoint of `config`, read its file, load it and run a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        # In a separate process, so that this one cannot reuse its freed memory.
        writer = multiprocessing.get_context("spawn").Process(target=_write_random, args=(path, config))
        writer.start()
        writer.join()
        file_bytes = path.stat().st_size
        # A virtual machine gets memory on first touch, which would take longer than reading.
        np.ones(min(3 * file_bytes, backend.free_bytes() // 2), np.uint8)
        cold = _drop_page_cache(path)
        with _PeakMemory() as memory:
            model = load_lm(config, path)
        read_s, load_s = [], []
        for _ in range(_ROUNDS):
            del model
            _drop_page_cache(path)
            read_s.append(_read_s(path))
            _drop_page_cache(path)
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
    """The median seconds of a step of one lane."""
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
