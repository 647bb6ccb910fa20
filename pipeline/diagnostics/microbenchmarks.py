"""Microbenchmarks of this machine: memory bandwidth and matrix products.

Each result is the fastest of several runs, because other load can only slow one down. The number of BLAS
threads is set by `pipeline.backend`.
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
from pipeline.kernels.library import Library
from pipeline.system import resources

Format = Literal["float32", "bfloat16", "8 bits", "4 bits"]
# (bits, group size) of the published MLX repositories.
QUANTIZED: Final[Mapping[Format, tuple[int, int]]] = {"8 bits": (8, 64), "4 bits": (4, 32)}

_ATTEMPTS: Final = 5
_READ_BYTES: Final = 2**29  # much larger than any cache
_OUT, _IN = 11264, 4096  # the largest matrix of Moshi 7B
_SQUARE: Final = 2048


def describe() -> dict[str, Any]:
    """The machine and backend of this process: `cores` and memory as granted to it, `load` of the host."""
    chosen = backend.prepare()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cores": round(resources.granted_cores(), 2),
        "host_cores": psutil.cpu_count(logical=True) or 1,
        "memory_bytes": resources.total_bytes(),
        "free_bytes": backend.free_bytes(),
        "device": chosen.device,
        "blas": chosen.blas.name,
        "kernels": kernels.instruction_set if isinstance(kernels := backend.kernels(), Library) else "off",
        "mlx": chosen.mlx_version,
        "dtype": chosen.compute_dtype,
        "load": round(psutil.getloadavg()[0], 2),
        "warning": chosen.warning,
    }


def formats() -> tuple[Format, ...]:
    """The weight formats that this backend can use for a language model."""
    if backend.prepare().keeps_quantized:
        return ("bfloat16", "8 bits", "4 bits")
    if isinstance(backend.kernels(), Library):
        return ("float32", "bfloat16", "8 bits", "4 bits")
    return ("float32",)


def read_bytes_per_s(threads: int) -> float:
    """Memory bandwidth: of `threads` threads, or of a matrix-vector product if that is higher."""
    parts = [np.ones(_READ_BYTES // threads // 4, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        host_s = _best_s(lambda: list(pool.map(lambda part: np.dot(part, part), parts)))
    bytes_each = {"float32": 4, "bfloat16": 2}[backend.prepare().compute_dtype]
    product_s = measure_product_s(1, formats()[0])
    return max(_READ_BYTES / host_s, _OUT * _IN * bytes_each / product_s)


def flop_per_s() -> float:
    """Floating-point operations per second in the product of two square matrices."""
    dtype: mx.Dtype = getattr(mx, backend.prepare().compute_dtype)
    square = mx.ones((_SQUARE, _SQUARE), dtype)
    mx.eval(square)
    return 2 * _SQUARE**3 / _best_s(lambda: mx.eval(square @ square))


def measure_product_s(rows: int, weight_format: Format) -> float:
    """Seconds of `x [rows, 4096] · W [11264, 4096]ᵀ` with W in the given format."""
    kernels = backend.kernels()
    if isinstance(kernels, Library):
        x, matrix = mx.ones((rows, _IN)), _matrix(kernels, weight_format)
        return _best_s(lambda: mx.eval(kernels.native.linear(x, matrix)))
    if weight_format in QUANTIZED:
        bits, group = QUANTIZED[weight_format]
        packed = mx.quantize(mx.ones((_OUT, _IN), mx.bfloat16), group_size=group, bits=bits)
        x = mx.ones((rows, _IN), mx.bfloat16)
        mx.eval(packed, x)
        return _best_s(
            lambda: mx.eval(mx.quantized_matmul(x, *packed, transpose=True, group_size=group, bits=bits))
        )
    dtype: mx.Dtype = getattr(mx, weight_format)
    weights, x = mx.ones((_OUT, _IN), dtype), mx.ones((rows, _IN), dtype)
    mx.eval(weights, x)
    return _best_s(lambda: mx.eval(x @ weights.T))


def _matrix(kernels: Library, weight_format: Format) -> Any:  # noqa: ANN401 - a class of the library
    if weight_format not in QUANTIZED:
        weights = mx.ones((_OUT, _IN), getattr(mx, weight_format))
        mx.eval(weights)
        return kernels.native.Matrix(weights)
    bits, group = QUANTIZED[weight_format]
    packed = mx.quantize(mx.ones((_OUT, _IN), mx.bfloat16), group_size=group, bits=bits)
    mx.eval(packed)
    return kernels.native.Matrix(*packed, bits, group)


def product_s_per_weight(widths: list[int], weight_format: Format) -> dict[int, float]:
    """Seconds per weight of a matrix product, by the number of rows multiplied with it."""
    return {width: measure_product_s(width, weight_format) / (_OUT * _IN) for width in widths}


def _best_s(call: Callable[[], object]) -> float:
    times_s = []
    for _ in range(_ATTEMPTS):
        began_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s)
