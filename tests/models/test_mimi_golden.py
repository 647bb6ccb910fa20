"""Mimi against the official package, streamed six times round the attention ring."""

import mlx.core as mx
import numpy as np
import pytest
from support.models.golden_mimi import CHECKPOINT, CODEBOOKS, config, decode, encode, golden, mimi

from pipeline.models.mimi import Mimi


def test_streamed_codes_are_those_of_the_official_package():
    """Frame by frame, every code is equal."""
    user_pcm, expected, _ = golden()
    state = mimi().encoder_state(3)
    for index, pcm in enumerate(user_pcm):
        codes, state = encode(pcm[None], state, [1])
        assert codes.dtype == np.int32
        np.testing.assert_array_equal(codes[0], expected[index], err_msg=f"frame {index}")


def test_streamed_samples_are_those_of_the_official_package():
    """Frame by frame, every sample is within 1e-4."""
    _, codes, expected = golden()
    state = mimi().decoder_state(3)
    for index, frame in enumerate(codes):
        pcm, state = decode(frame[None], state, [2])
        assert pcm.dtype == np.float32
        np.testing.assert_allclose(pcm[0], expected[index], rtol=0, atol=1e-4, err_msg=f"frame {index}")


def test_the_golden_data_vary():
    """The golden data vary enough in every codebook and in time for equality to mean something."""
    _, codes, agent_pcm = golden()
    assert all(len(np.unique(codes[:, k])) > 10 for k in range(CODEBOOKS))
    assert np.abs(agent_pcm).max() > 0.3


@pytest.mark.parametrize("active", [2, 4])
def test_fewer_codebooks_are_the_first_of_all(active):
    """A codec with k codebooks gives the first k codes, and what k codes decode to does not change."""
    user_pcm, expected, _ = golden()
    small = Mimi(config(), active)
    small.load_weights(CHECKPOINT)
    lanes = np.array([0], np.int32)
    whole = mx.array(user_pcm.reshape(1, 1, -1))
    codes, _ = small.encode(whole, small.encoder_state(1), lanes)
    np.testing.assert_array_equal(np.array(codes)[0], expected[:, :active, 0].T)
    pcm, _ = small.decode(codes, small.decoder_state(1), lanes)
    same, _ = mimi().decode(codes, mimi().decoder_state(1), lanes)
    np.testing.assert_array_equal(np.array(pcm), np.array(same))


def test_half_precision_keeps_the_sound():
    """In bfloat16 the decoded samples stay within a twentieth of full scale; codes stay in range."""
    user_pcm, codes, expected = golden()
    half = Mimi(config(), CODEBOOKS)
    half.load_weights(CHECKPOINT, mx.bfloat16)
    lanes = np.array([0], np.int32)
    state = half.decoder_state(1)
    assert state.conv_state.dtype == mx.bfloat16
    whole = mx.array(codes[:, :, 0].T[None])
    pcm, _ = half.decode(whole, state, lanes)
    assert pcm.dtype == mx.float32
    np.testing.assert_allclose(np.array(pcm).reshape(expected.shape), expected, rtol=0, atol=0.05)
    codes_found, _ = half.encode(mx.array(user_pcm.reshape(1, 1, -1)), half.encoder_state(1), lanes)
    assert 0 <= np.array(codes_found).min() <= np.array(codes_found).max() < config().quantizer.bins
