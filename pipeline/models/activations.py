"""The curves between the layers, spelt for the device that draws them.

MLX's CPU backend computes `exp`, `expm1` and `tanh` number by number at 8 to 12 ns each, and a
power, which the C library vectorizes well, in less than half of that. On Metal and CUDA the
fused kernels are best left alone. Both spellings give the same curve to a few units of the last
place of 1.
"""

import functools
import math

import mlx.core as mx
import numpy as np

from pipeline.backend import prepare

# The C library's power takes its slow path where the exponent is exactly 0, as it would be
# for every positive input; e to this power is 1 all the same.
_ALMOST_ZERO = -1e-30


def elu_by_power(x: mx.array) -> mx.array:
    """`x` above 0, e^x − 1 below: of the two, always the larger."""
    return mx.maximum(x, mx.power(math.e, mx.minimum(x, _ALMOST_ZERO)) - 1)


def elu_by_expm1(x: mx.array) -> mx.array:
    """`x` above 0, exp(x) − 1 below; without a select: that would cost more than both halves."""
    return mx.maximum(x, 0) + mx.expm1(mx.minimum(x, 0))


elu = elu_by_power if prepare().device == "cpu" else elu_by_expm1


def gelu(x: mx.array) -> mx.array:
    """`x · Φ(x)`, with the error function: the exact form, not the tanh one."""
    return x * (1 + mx.erf(x * 0.5**0.5)) / 2


@functools.cache
def _of_a_row(width: int) -> tuple[mx.array, mx.array]:
    """1 and 1/e as often as a row has numbers: nothing is left to be spread out to its shape."""
    return mx.array(np.ones((1, width), np.float32)), mx.array(np.full((1, width), 1 / math.e, np.float32))


def silu_by_power(x: mx.array) -> mx.array:
    """`x / (1 + e^−x)`."""
    if x.shape[:-1] == (1,) and x.dtype == mx.float32:
        one, base = _of_a_row(x.shape[-1])
        return x / (one + mx.power(base, x))
    return x / (1 + mx.power(1 / math.e, x))


def silu_by_sigmoid(x: mx.array) -> mx.array:
    """`x · σ(x)`."""
    return x * mx.sigmoid(x)


silu = silu_by_power if prepare().device == "cpu" else silu_by_sigmoid
