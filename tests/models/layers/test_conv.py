"""Convolutions that carry their past: equal to the textbook, in any grouping of steps."""

import io

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.layers.conv import (
    CausalConv1d,
    ConvDownsample1d,
    ConvState,
    ConvTranspose1d,
    ConvTrUpsample1d,
    conv_state_floats,
)

seeds = st.integers(0, 2**31)


def fill(layer, seed):
    """Random weights; returns them as NumPy arrays."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(a.shape).astype(np.float32) for name, a in layer.items()}
    layer.update({name: mx.array(a) for name, a in weights.items()})
    return weights


def run(layer, x, cuts, *extra):
    """`x [w, T, C]` through the layer, cut before each of `cuts`; the state starts as zeros."""
    past = mx.zeros((x.shape[0], conv_state_floats(layer)))
    out = []
    for index, part in enumerate(np.split(x, sorted(cuts), axis=1)):
        conv_state = ConvState(past)
        flags = [mx.full((x.shape[0],), index == 0)] * len(extra)
        out.append(np.array(layer(mx.array(part), conv_state, *flags)))
        if conv_state_floats(layer):
            past = conv_state.packed()
    return np.concatenate(out, axis=1)


@st.composite
def convolutions(draw):
    stride = draw(st.integers(1, 4))
    kernel = draw(st.integers(1, 5)) + stride - 1
    dilation = draw(st.integers(1, 3)) if stride == 1 else 1
    steps = draw(st.integers(1, 9))
    cuts = draw(st.sets(st.integers(1, steps), max_size=3)) - {steps}
    return stride, kernel, dilation, steps, {stride * cut for cut in cuts}


@pytest.mark.parametrize("by_products", [True, False])
@settings(max_examples=60, deadline=None)
@given(shape=convolutions(), seed=seeds)
def test_causal_convolution_is_the_textbook_sum_in_any_grouping(by_products, shape, seed):
    """Output t is the bias plus the kernel over the inputs up to (t + 1) · stride, zeros before them."""
    stride, kernel, dilation, steps, cuts = shape
    layer = CausalConv1d(3, 2, kernel, stride=stride, dilation=dilation)
    weights = fill(layer, seed)
    x = np.random.default_rng(seed + 1).standard_normal((2, steps * stride, 3)).astype(np.float32)
    reach = (kernel - 1) * dilation
    padded = np.pad(x.astype(np.float64), ((0, 0), (reach + 1 - stride, 0), (0, 0)))
    expected = np.zeros((2, steps, 2)) + weights["bias"]
    for t in range(steps):
        window = padded[:, t * stride : t * stride + reach + 1 : dilation]  # [w, K, in]
        expected[:, t] += np.einsum("wki,oki->wo", window, weights["weight"])
    layer.by_products = by_products
    out = run(layer, x, cuts)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 1, 2), (8, 4, 1)])
def test_a_kernel_smaller_than_its_input_is_computed_by_products(kernel, stride, dilation):
    """The graph then has no convolution, and the result is the convolution's."""
    layer = CausalConv1d(4, 3, kernel, stride=stride, dilation=dilation)
    fill(layer, 7)
    x = np.random.default_rng(8).standard_normal((2, 64, 4)).astype(np.float32)
    ways = []
    for by_products in (True, False):
        layer.by_products = by_products
        past = mx.zeros((2, conv_state_floats(layer)))
        out = layer(mx.array(x), ConvState(past))
        graph = io.StringIO()
        mx.export_to_dot(graph, out)
        assert ("Convolution" in graph.getvalue()) != by_products
        ways.append(np.array(out))
    np.testing.assert_allclose(*ways, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(stride=st.integers(1, 5), steps=st.integers(1, 7), data=st.data(), seed=seeds)
def test_transposed_convolution_is_the_textbook_sum_in_any_grouping(stride, steps, data, seed):
    """Each input adds the kernel from its own position on; every output has the bias once."""
    cuts = data.draw(st.sets(st.integers(1, steps), max_size=3)) - {steps}
    layer = ConvTranspose1d(3, 2, stride)
    weights = fill(layer, seed)
    x = np.random.default_rng(seed + 1).standard_normal((2, steps, 3)).astype(np.float32)
    expected = np.zeros((2, (steps + 1) * stride, 2)) + weights["bias"]
    for t in range(steps):
        spread = np.einsum("wi,koi->wko", x[:, t], weights["weight"])
        expected[:, t * stride : (t + 2) * stride] += spread
    np.testing.assert_allclose(run(layer, x, cuts), expected[:, : steps * stride], rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(stride=st.integers(1, 4), steps=st.integers(1, 7), data=st.data(), seed=seeds)
def test_upsampling_is_the_textbook_sum_channel_by_channel(stride, steps, data, seed):
    """Each channel is upsampled by its own kernel and does not depend on others."""
    cuts = data.draw(st.sets(st.integers(1, steps), max_size=3)) - {steps}
    layer = ConvTrUpsample1d(3, stride)
    weights = fill(layer, seed)
    x = np.random.default_rng(seed + 1).standard_normal((2, steps, 3)).astype(np.float32)
    expected = np.zeros((2, (steps + 1) * stride, 3))
    for t in range(steps):
        expected[:, t * stride : (t + 2) * stride] += x[:, t, None] * weights["weight"][:, 0]
    np.testing.assert_allclose(run(layer, x, cuts), expected[:, : steps * stride], rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(stride=st.integers(1, 4), steps=st.integers(1, 7), data=st.data(), seed=seeds)
def test_downsampling_repeats_the_first_step_into_the_past(stride, steps, data, seed):
    """It is a convolution of a signal that has always been what it was at its first step."""
    cuts = {stride * cut for cut in data.draw(st.sets(st.integers(1, steps), max_size=3)) - {steps}}
    layer = ConvDownsample1d(3, stride)
    weights = fill(layer, seed)
    x = np.random.default_rng(seed + 1).standard_normal((2, steps * stride, 3)).astype(np.float32)
    padded = np.concatenate([np.repeat(x[:, :1], stride, axis=1), x], axis=1)
    expected = np.stack(
        [
            np.einsum("wki,oki->wo", padded[:, t * stride : (t + 2) * stride], weights["weight"])
            for t in range(steps)
        ],
        axis=1,
    )
    np.testing.assert_allclose(run(layer, x, cuts, "fresh"), expected, rtol=0, atol=1e-4)


def test_a_state_that_was_not_popped_completely_is_not_packed():
    """A layer that does not pop or push its part raises at once."""
    conv_state = ConvState(mx.zeros((1, 4)))
    conv_state.push(conv_state.pop(1, 3))
    with pytest.raises(AssertionError):
        conv_state.packed()
