"""Both forms of each activation function agree with the exact function."""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from pipeline.models.layers.activations import (
    elu_by_expm1,
    elu_by_power,
    exponential,
    gelu_by_erf,
    gelu_by_rational,
    gelu_on_cpu,
    silu_by_power,
    silu_by_sigmoid,
)

ULP = 2.0**-23  # the spacing of float32 above 1


@pytest.mark.parametrize("elu", [elu_by_power, elu_by_expm1])
def test_elu_is_exact(elu: Callable[[mx.array], mx.array]) -> None:
    """`x ≥ 0` is returned bit for bit; below 0 the result is e^x − 1 to an ulp of 1, without overflow."""
    x = np.concatenate([np.linspace(-30, 30, 1001), [-1e4, -1e-6, -1e-30, 0, 1e-6, 1e4]]).astype(np.float32)
    curve = np.array(elu(mx.array(x)))
    np.testing.assert_array_equal(curve[x >= 0], x[x >= 0])
    np.testing.assert_allclose(curve[x < 0], np.expm1(x[x < 0].astype(np.float64)), rtol=0, atol=ULP)


def test_the_exponential_function_is_exact() -> None:
    """e^x to a few ulp; far below 0 it is 0, so that an impossible token has no probability."""
    x = np.concatenate([np.linspace(-80, 5, 1001), [-1e4, -3e38, -np.inf, 0]]).astype(np.float32)
    curve = np.array(exponential(mx.array(x)))
    np.testing.assert_allclose(curve, np.exp(x.astype(np.float64)), rtol=64 * ULP, atol=1e-37)


@pytest.mark.parametrize("silu", [silu_by_power, silu_by_sigmoid])
def test_silu_is_exact(silu: Callable[[mx.array], mx.array]) -> None:
    """x · σ(x) to a few ulp; 0 or x itself far from the origin."""
    x = np.concatenate([np.linspace(-30, 30, 1001), [-1e4, -200, -1e-6, 0, 1e-6, 200, 1e4]])
    exact = x / (1 + np.exp(np.minimum(-x, 700)))
    curve = np.array(silu(mx.array(x.astype(np.float32))))
    np.testing.assert_allclose(curve, exact, rtol=64 * ULP, atol=ULP)


@pytest.mark.parametrize("gelu", [gelu_by_erf, gelu_by_rational, gelu_on_cpu])
def test_gelu_is_exact(gelu: Callable[[mx.array], mx.array]) -> None:
    """x · Φ(x) to a few ulp; 0 or x itself far from the origin."""
    x = np.concatenate([np.linspace(-12, 12, 9001), [-1e30, -1e4, -1e-6, 0, 1e-6, 1e4, 1e30]])
    x = x.astype(np.float32)
    exact = [0.5 * float(number) * math.erfc(-float(number) / math.sqrt(2)) for number in x]
    for some in (slice(None), slice(2000), slice(-2000, None)):  # small and large arrays take different paths
        curve = np.array(gelu(mx.array(x[some])))
        np.testing.assert_allclose(curve, exact[some], rtol=4 * ULP, atol=4 * ULP)
