"""Computes a few products with a library that was just built: `python -m pipeline.kernels.selftest PATH`.

It runs in a process of its own, because a library that does not fit can end the process that loads it.
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from pipeline.kernels import library
from pipeline.system.command import run_command

_TOLERANCE = 1e-5


def check(path: Path) -> str | None:
    """Compare the library's products, in each instruction set, with MLX's; a sentence says what is wrong."""
    opened = library.open_library(path)
    if isinstance(opened, library.Unavailable):
        return opened.reason
    native = opened.native
    random = np.random.default_rng(0)
    dense = mx.array(random.standard_normal((40, 192), np.float32))
    x = mx.array(random.standard_normal((3, 192), np.float32))
    for name in native.supported().split(","):
        native.choose(name)
        for dtype in (mx.float32, mx.bfloat16, mx.float16):
            weight = mx.contiguous(dense.astype(dtype))
            mx.eval(weight)
            if not _close(native.linear(x, native.Matrix(weight)), x @ weight.astype(mx.float32).T):
                return f"a product with {dtype} weights is wrong with {name}"
        for bits in (4, 6, 8):
            words, scales, biases = mx.quantize(dense, group_size=64, bits=bits)
            mx.eval(words, scales, biases)
            matrix = native.Matrix(words, scales, biases, bits, 64)
            weight = mx.dequantize(words, scales, biases, group_size=64, bits=bits)
            if not _close(native.linear(x, matrix), x @ weight.T):
                return f"a product with {bits}-bit weights is wrong with {name}"
    return None


def _close(one: mx.array, other: mx.array) -> bool:
    largest = mx.abs(other).max().item()
    assert isinstance(largest, float)
    return bool((mx.abs(one - other).max() <= _TOLERANCE * (1 + largest)).item())


def main() -> int:
    """Try the library at the path that is the only argument; 1 and a sentence if it is wrong."""
    wrong = check(Path(sys.argv[1]))
    if wrong is not None:
        print(f"error: {wrong}", file=sys.stderr)  # noqa: T201
    return int(wrong is not None)


if __name__ == "__main__":
    sys.exit(run_command(main))
