"""The quantizer finds nearest centroids, level after level, and adds them up again."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.checkpoint.mimi_config import QuantizerConfig
from pipeline.models.quantizer import SplitResidualVectorQuantizer, half_squares

CONFIG = QuantizerConfig(dimension=5, n_q=4, bins=16)
WIDTH = 6


def make(seed):
    rng = np.random.default_rng(seed)
    quantizer = SplitResidualVectorQuantizer(CONFIG.n_q, WIDTH, CONFIG)
    for rvq in (quantizer.rvq_first, quantizer.rvq_rest):
        for name, old in [("input_proj", rvq.input_proj), ("output_proj", rvq.output_proj)]:
            rvq[name] = mx.array(rng.standard_normal(old.shape).astype(np.float32))
        rvq.codebooks = mx.array(rng.standard_normal(rvq.codebooks.shape).astype(np.float32) * 2)
        rvq.half_squares = half_squares(rvq.codebooks)
    return quantizer


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 3), steps=st.integers(1, 3))
def test_each_level_takes_the_nearest_centroid_of_what_is_left(seed, rows, steps):
    """No centroid of a level is nearer to the residual than the chosen one, beyond rounding."""
    quantizer = make(seed)
    x = np.random.default_rng(seed + 1).standard_normal((rows, steps, WIDTH)).astype(np.float32)
    codes = np.array(quantizer.encode(mx.array(x)))
    assert codes.shape == (rows, CONFIG.n_q, steps)
    assert codes.dtype == np.int32
    for rvq, part in ((quantizer.rvq_first, codes[:, :1]), (quantizer.rvq_rest, codes[:, 1:])):
        residual = x.astype(np.float64) @ np.array(rvq.input_proj).T
        for level, codebook in enumerate(np.array(rvq.codebooks)):
            distances = np.linalg.norm(residual[:, :, None] - codebook, axis=-1)  # [w, T, bins]
            chosen = np.take_along_axis(distances, part[:, level, :, None], axis=-1)[..., 0]
            np.testing.assert_allclose(chosen, distances.min(axis=-1), rtol=0, atol=1e-5)
            residual = residual - codebook[part[:, level]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), levels=st.integers(1, CONFIG.n_q))
def test_decoding_adds_the_centroids_of_the_levels_given(seed, levels):
    """The sum of the named centroids, each group through its own projection; levels left out add nothing."""
    quantizer = make(seed)
    codes = np.random.default_rng(seed + 1).integers(0, CONFIG.bins, (2, levels, 3)).astype(np.int32)
    expected = np.zeros((2, 3, WIDTH))
    for level in range(levels):
        rvq = quantizer.rvq_rest if level else quantizer.rvq_first
        codebook = np.array(rvq.codebooks)[max(level - 1, 0)]
        expected += codebook[codes[:, level]] @ np.array(rvq.output_proj).T
    decoded = np.array(quantizer.decode(mx.array(codes)))
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-4)
