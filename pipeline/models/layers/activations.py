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
# Of the quotient that |x| · (1 − Φ(|x|)) · e^(x²/2) is, between 0 and 6, to 2e-10 after the last
# factor: least squares, repeated with weights until the largest errors are equal. The highest
# power first; beyond 16, where there is nothing left, a power of 4 could grow too large.
_ABOVE = (0.010822819359770175, 0.09091757662267345, 0.3072691933236508, 0.4999999840794741)
_BELOW = (0.027189399196063623, 0.2266927429485652, 0.8087912924818662, 1.4124221783150523)
_FAR = 16.0
_MANY = 8192  # numbers from which on 22 cheap operations cost less than one that is not


def exponential_by_power(x: mx.array) -> mx.array:
    """e^x."""
    return mx.power(math.e, x)


exponential = exponential_by_power if prepare().device == "cpu" else mx.exp


def elu_by_power(x: mx.array) -> mx.array:
    """`x` above 0, e^x − 1 below: of the two, always the larger."""
    return mx.maximum(x, exponential_by_power(mx.minimum(x, _ALMOST_ZERO)) - 1)


def elu_by_expm1(x: mx.array) -> mx.array:
    """`x` above 0, exp(x) − 1 below; without a select: that would cost more than both halves."""
    return mx.maximum(x, 0) + mx.expm1(mx.minimum(x, 0))


elu = elu_by_power if prepare().device == "cpu" else elu_by_expm1


def gelu_by_erf(x: mx.array) -> mx.array:
    """`x · Φ(x)`, with the error function: the exact form, not the tanh one."""
    return x * (1 + mx.erf(x * 0.5**0.5)) / 2


def gelu_by_quotient(x: mx.array) -> mx.array:
    """The same: `x` above 0, less |x| · (1 − Φ(|x|)), which is a quotient of polynomials times e^(−x²/2)."""
    size = mx.minimum(mx.abs(x), _FAR)
    above, below = _ABOVE[0] * size, _BELOW[0] * size
    for more_above, more_below in zip(_ABOVE[1:], _BELOW[1:], strict=True):
        above, below = (above + more_above) * size, (below + more_below) * size
    tail = above / (below + 1) * mx.power(math.exp(-0.5), mx.square(size))
    return mx.maximum(x, 0) - tail


def gelu_on_cpu(x: mx.array) -> mx.array:
    """Whichever takes less time."""
    return gelu_by_quotient(x) if x.size >= _MANY else gelu_by_erf(x)


gelu = gelu_on_cpu if prepare().device == "cpu" else gelu_by_erf


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
