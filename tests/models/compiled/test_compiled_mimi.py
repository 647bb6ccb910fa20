"""A compiled frame of the codec equals its frame: the same codes, sound and state."""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import MIMI

from pipeline.backend import prepare
from pipeline.models import random_init
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.compiled.mimi import CompiledMimi
from pipeline.models.mimi import Mimi, MimiState

LANES = 5
EVENTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, LANES - 1), min_size=1, max_size=LANES, unique=True),
        st.integers(0, 3),
        st.none() | st.integers(0, LANES - 1),
    ),
    min_size=4,
    max_size=9,
)


@pytest.fixture(scope="module")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> Mimi:
    config = parse_mimi_config(MIMI)
    path: Path = tmp_path_factory.mktemp("mimi") / "mimi.safetensors"
    random_init.write_checkpoint(path, random_init.mimi_tensors(config), 1)
    mimi = Mimi(config, 4)
    mimi.load_weights(path)
    return mimi


def arrays(state: MimiState) -> list[np.ndarray]:
    rings = state.kv_cache
    return [np.array(each)[:LANES] for each in (state.conv_state, *rings.keys, *rings.values)]


def agree(mine: MimiState, theirs: MimiState) -> None:
    np.testing.assert_array_equal(mine.kv_cache.offsets, theirs.kv_cache.offsets)
    for one, other in zip(arrays(mine), arrays(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(events=EVENTS)
def test_a_compiled_frame_is_a_frame(mimi: Mimi, events: list[tuple[list[int], int, int | None]]) -> None:
    """Code for code and sample for sample, whoever joins, leaves and is reset, across the wrap."""
    mx.disable_compile()
    try:
        compiled = CompiledMimi(mimi, LANES, 3)
        encoders, decoders = (
            [mimi.encoder_state(LANES + 1)] * 2,
            [mimi.decoder_state(LANES + 1)] * 2,
        )
        rng = np.random.default_rng(2)
        for lanes, padding, reset in events * 2:
            if reset is not None:
                encoders = [mimi.reset(state, reset) for state in encoders]
                decoders = [mimi.reset(state, reset) for state in decoders]
            rows = np.array([*lanes, *[LANES] * padding], np.int32)
            pcm = mx.array(rng.uniform(-0.5, 0.5, (len(rows), 1, 1920)).astype(np.float32))
            codes = mx.array(rng.integers(0, 32, (len(rows), 3, 1)).astype(np.int32))
            (due, encoders[0]), (got, encoders[1]) = (codec.encode(pcm, state, rows) for codec, state in
                                                zip((mimi, compiled), encoders, strict=True))  # fmt: skip
            np.testing.assert_array_equal(np.array(due)[: len(lanes)], np.array(got)[: len(lanes)])
            (due, decoders[0]), (got, decoders[1]) = (codec.decode(codes, state, rows) for codec, state in
                                              zip((mimi, compiled), decoders, strict=True))  # fmt: skip
            np.testing.assert_allclose(np.array(due)[: len(lanes)], np.array(got)[: len(lanes)], atol=1e-5)
        agree(encoders[1], encoders[0])
        agree(decoders[1], decoders[0])
    finally:
        mx.enable_compile()


@pytest.mark.skipif(
    prepare().device == "cpu" and shutil.which("g++") is None, reason="MLX compiles for a CPU with g++"
)
def test_each_direction_is_traced_once(mimi: Mimi) -> None:
    """Really compiled: one trace for each shape, before the first frame, and the codec's results."""
    compiled, row = CompiledMimi(mimi, 1, 4), np.zeros(1, np.int32)
    encoders = [mimi.encoder_state(2), compiled.warmup_encoder(mimi.encoder_state(2))]
    decoders = [mimi.decoder_state(2), compiled.warmup_decoder(mimi.decoder_state(2))]
    noise = np.random.default_rng(6)
    for _ in range(12):
        pcm = mx.array(noise.uniform(-0.5, 0.5, (1, 1, 1920)).astype(np.float32))
        due, encoders[0] = mimi.encode(pcm, encoders[0], row)
        codes, encoders[1] = compiled.encode(pcm, encoders[1], row)
        np.testing.assert_array_equal(np.array(due), np.array(codes))
        due, decoders[0] = mimi.decode(codes, decoders[0], row)
        sound, decoders[1] = compiled.decode(codes, decoders[1], row)
        np.testing.assert_allclose(np.array(due), np.array(sound), atol=1e-5)
    assert compiled.encoding.traces == compiled.decoding.traces == len(compiled.shape_keys()) == 1


@pytest.mark.parametrize("lane", [0, 3])
def test_lanes_that_are_not_named_keep_their_state_bit_for_bit(mimi: Mimi, lane: int) -> None:
    """Whether the lane's row is read in place or gathered, in both directions."""
    mx.disable_compile()
    try:
        compiled = CompiledMimi(mimi, LANES, 4)
        everyone = np.arange(LANES, dtype=np.int32)
        rng = np.random.default_rng(3)
        encoders, decoders = mimi.encoder_state(LANES + 1), mimi.decoder_state(LANES + 1)

        def frame(lanes: np.ndarray) -> None:
            nonlocal encoders, decoders
            pcm = rng.uniform(-0.5, 0.5, (len(lanes), 1, 1920)).astype(np.float32)
            _, encoders = compiled.encode(pcm, encoders, lanes)
            _, decoders = compiled.decode(
                rng.integers(0, 32, (len(lanes), 4, 1)).astype(np.int32), decoders, lanes
            )

        for _ in range(7):
            frame(everyone)
        before = arrays(encoders) + arrays(decoders)
        frame(everyone[lane : lane + 1])
        others = np.setdiff1d(everyone, [lane])
        for old, new in zip(before, arrays(encoders) + arrays(decoders), strict=True):
            np.testing.assert_array_equal(old[others], new[others])
            assert (old[lane] != new[lane]).any()
    finally:
        mx.enable_compile()
