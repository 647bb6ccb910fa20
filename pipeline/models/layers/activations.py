"""Activation functions: ELU, GELU, SiLU and the exponential, each in the form that is fastest on the device.

MLX's CPU backend computes `exp`, `expm1` and `tanh` one number at a time, at 8 to 12 ns each, and
a power, which the C library vectorizes, in less than half of that. On Metal and CUDA MLX's own
kernels are faster. Both forms agree to a few ulp of 1. Which device this is: `pipeline.backend`.
"""

import functools
import math

import mlx.core as mx
import numpy as np

from pipeline import backend

# The C library's power takes a slow path where the exponent is exactly 0, as it would be for
# every positive input; e to this power is still 1.
_ALMOST_ZERO = -1e-30
# Coefficients, highest power first, of the rational function that approximates
# |x| · (1 − Φ(|x|)) · e^(x²/2) on [0, 6]; the error after the last factor is 2e-10. Found by
# iteratively reweighted least squares. Beyond 16 the result is 0, and x⁴ could overflow.
_NUMERATOR = (0.010822819359770175, 0.09091757662267345, 0.3072691933236508, 0.4999999840794741)
_DENOMINATOR = (0.027189399196063623, 0.2266927429485652, 0.8087912924818662, 1.4124221783150523)
_TAIL_END = 16.0
_LARGE = 8192  # from this many numbers on, 22 cheap operations cost less than one erf


def exponential_by_power(x: mx.array) -> mx.array:
    """e^x."""
    return mx.power(math.e, x)


def exponential(x: mx.array) -> mx.array:
    """e^x, in the form that is fastest on this device."""
    return exponential_by_power(x) if backend.prepare().on_cpu else mx.exp(x)


def elu_by_power(x: mx.array) -> mx.array:
    """`x` above 0, e^x − 1 below, which is the larger of the two everywhere."""
    return mx.maximum(x, exponential_by_power(mx.minimum(x, _ALMOST_ZERO)) - 1)


def elu_by_expm1(x: mx.array) -> mx.array:
    """`x` above 0, e^x − 1 below; the sum of both halves, because a select costs more than either."""
    return mx.maximum(x, 0) + mx.expm1(mx.minimum(x, 0))


def elu(x: mx.array) -> mx.array:
    """ELU with α = 1, in the form that is fastest on this device."""
    return elu_by_power(x) if backend.prepare().on_cpu else elu_by_expm1(x)


def gelu_by_erf(x: mx.array) -> mx.array:
    """`x · Φ(x)` with the error function: the exact GELU, not its tanh approximation."""
    return x * (1 + mx.erf(x * 0.5**0.5)) / 2


def gelu_by_rational(x: mx.array) -> mx.array:
    """`x · Φ(x)` as `max(x, 0) − |x| · (1 − Φ(|x|))`, the latter a rational function times e^(−x²/2)."""
    size = mx.minimum(mx.abs(x), _TAIL_END)
    numerator, denominator = _NUMERATOR[0] * size, _DENOMINATOR[0] * size
    for above, below in zip(_NUMERATOR[1:], _DENOMINATOR[1:], strict=True):
        numerator, denominator = (numerator + above) * size, (denominator + below) * size
    tail = numerator / (denominator + 1) * mx.power(math.exp(-0.5), mx.square(size))
    return mx.maximum(x, 0) - tail


def gelu_on_cpu(x: mx.array) -> mx.array:
    """The form that is faster for as many numbers as `x` has."""
    return gelu_by_rational(x) if x.size >= _LARGE else gelu_by_erf(x)


def gelu(x: mx.array) -> mx.array:
    """The exact GELU, in the form that is fastest on this device."""
    return gelu_on_cpu(x) if backend.prepare().on_cpu else gelu_by_erf(x)


@functools.cache
def _row_constants(width: int) -> tuple[mx.array, mx.array]:
    """Rows of ones and of 1/e, `[1, width]` each: with equal shapes MLX inserts no broadcasts."""
    return mx.array(np.ones((1, width), np.float32)), mx.array(np.full((1, width), 1 / math.e, np.float32))


def silu_by_power(x: mx.array) -> mx.array:
    """`x / (1 + e^−x)`."""
    if x.shape[:-1] == (1,) and x.dtype == mx.float32:
        one, base = _row_constants(x.shape[-1])
        return x / (one + mx.power(base, x))
    return x / (1 + mx.power(1 / math.e, x))


def silu_by_sigmoid(x: mx.array) -> mx.array:
    """`x · σ(x)`."""
    return x * mx.sigmoid(x)


def silu(x: mx.array) -> mx.array:
    """SiLU, in the form that is fastest on this device."""
    return silu_by_power(x) if backend.prepare().on_cpu else silu_by_sigmoid(x)
