"""How fast this machine reads and multiplies: the best of some attempts, for all else only slows it.

No more than `threads` cores are asked for, by threads of our own here and by the BLAS as it
was told (`pipeline.backend`).
"""

import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

import mlx.core as mx
import numpy as np
import psutil

from pipeline import backend

Format = Literal["float32", "bfloat16", "8 bits", "4 bits"]
# Bits and the numbers that share a scale, as the MLX repositories are published.
QUANTIZED: Final[Mapping[Format, tuple[int, int]]] = {"8 bits": (8, 64), "4 bits": (4, 32)}

_ATTEMPTS: Final = 5
_READ_BYTES: Final = 2**29  # far more than any cache holds
_OUT, _IN = 11264, 4096  # the widest product of Moshi 7B
_SQUARE: Final = 2048


def describe() -> dict[str, Any]:
    """What this process computes on."""
    chosen = backend.prepare()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cores": psutil.cpu_count(logical=True) or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "free_bytes": backend.free_bytes(),
        "device": chosen.device,
        "blas": chosen.blas.name,
        "mlx": chosen.mlx_version,
        "dtype": chosen.compute_dtype,
        "load": round(psutil.getloadavg()[0], 2),
        "warning": chosen.warning,
    }


def formats() -> tuple[Format, ...]:
    """How the weights of a language model can be kept here."""
    if backend.prepare().keeps_quantized:
        return ("bfloat16", "8 bits", "4 bits")
    return ("float32",)


def read_bytes_per_s(threads: int) -> float:
    """Bytes a second that `threads` threads read together, or one matrix-vector product reads."""
    parts = [np.ones(_READ_BYTES // threads // 4, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        host_s = _best_s(lambda: list(pool.map(lambda part: np.dot(part, part), parts)))
    bytes_each = {"float32": 4, "bfloat16": 2}[backend.prepare().compute_dtype]
    product_s = measure_product_s(1, formats()[0])
    return max(_READ_BYTES / host_s, _OUT * _IN * bytes_each / product_s)


def flop_per_s() -> float:
    """Floating-point operations a second in the product of two square matrices."""
    dtype: mx.Dtype = getattr(mx, backend.prepare().compute_dtype)
    square = mx.ones((_SQUARE, _SQUARE), dtype)
    mx.eval(square)
    return 2 * _SQUARE**3 / _best_s(lambda: mx.eval(square @ square))


def measure_product_s(rows: int, kept: Format) -> float:
    """Seconds of `x [rows, 4096] · W [11264, 4096]ᵀ`, with W kept as a model would."""
    if kept in QUANTIZED:
        bits, group = QUANTIZED[kept]
        packed = mx.quantize(mx.ones((_OUT, _IN), mx.bfloat16), group_size=group, bits=bits)
        x = mx.ones((rows, _IN), mx.bfloat16)
        mx.eval(packed, x)
        return _best_s(
            lambda: mx.eval(mx.quantized_matmul(x, *packed, transpose=True, group_size=group, bits=bits))
        )
    dtype: mx.Dtype = getattr(mx, kept)
    weights, x = mx.ones((_OUT, _IN), dtype), mx.ones((rows, _IN), dtype)
    mx.eval(weights, x)
    return _best_s(lambda: mx.eval(x @ weights.T))


def product_s_per_number(widths: list[int], kept: Format) -> dict[int, float]:
    """Seconds that each number of a weight matrix costs, by the rows multiplied with it."""
    return {width: measure_product_s(width, kept) / (_OUT * _IN) for width in widths}


def _best_s(call: Callable[[], object]) -> float:
    times_s = []
    for _ in range(_ATTEMPTS):
        began_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s)
