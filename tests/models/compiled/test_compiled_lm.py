"""A compiled step of the language model equals its step: the same tokens and state, few traces."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from support.checkpoints import LM

from pipeline.backend import prepare
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.compiled import slots
from pipeline.models.compiled.lm import CompiledLm
from pipeline.models.layers.quantized import Quantization, Quantized, install
from pipeline.models.layers.transformer import RingKVCache
from pipeline.models.lm import LmModel
from pipeline.models.sampling import SamplingBatch
from pipeline.values import GREEDY, SamplingParams

GOLDEN = Path(__file__).parents[2] / "data" / "lm_golden_moshi"
LANES = 5
SETTINGS = (
    GREEDY,
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=1.2, top_k=0, text_top_k=3, padding_bias=1.5),
    SamplingParams(seed=3, temperature=0.0, text_temperature=1.5, repetition_penalty=1.7),
    SamplingParams(seed=4, temperature=0.9, top_k=5),
)


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let also rings of a few slots be read in parts."""
    monkeypatch.setattr(slots, "_FIRST_SLOTS", 4)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Call the functions themselves, uncompiled, as when they are traced."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture(scope="module")
def model() -> LmModel:
    model = LmModel(parse_lm_config(json.loads((GOLDEN / "config.json").read_text())))
    model.load_weights(GOLDEN / "model.safetensors")
    return model


def made(folder: Path, changes: dict[str, Any], dtype: mx.Dtype = mx.float32, cfg_coef: float = 1) -> LmModel:
    config = parse_lm_config({**LM, **changes})
    path = folder / "model.safetensors"
    random_init.write_checkpoint(path, random_init.lm_tensors(config), 1)
    model = LmModel(config, cfg_coef)
    model.load_weights(path, dtype)
    return model


class Both:
    """The same sessions, stepped by the model and by its compiled function, and compared."""

    def __init__(self, model: LmModel, lanes: int, atol: float = 1e-4) -> None:
        self.model, self.compiled, self.lanes, self.atol = model, CompiledLm(model, lanes), lanes, atol
        self.eager_state, self.state = model.state(lanes + 1), model.state(lanes + 1)
        self.steps = np.zeros(lanes, int)
        self.rng = np.random.default_rng(5)

    def open(self, lane: int) -> None:
        self.steps[lane] = 0
        self.eager_state = self.model.reset(self.eager_state, lane)
        self.state = self.model.reset(self.state, lane)

    def step(self, lanes: list[int], padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of `lanes` in a batch that is padded with the scratch row, equal for both."""
        c = self.model.config
        rows = np.array([*lanes, *[self.lanes] * padding], np.int32)
        text = self.rng.integers(0, c.text_card + 1, (len(rows), 1)).astype(np.int32)
        audio = self.rng.integers(-1, c.card + 1, (len(rows), c.n_q, 1)).astype(np.int32)
        batch = SamplingBatch.of(
            [SETTINGS[lane % len(SETTINGS)] for lane in lanes],
            self.steps[lanes].tolist(),
            [self.rng.integers(0, c.text_vocabulary, lane).tolist() for lane in lanes],
            c.dep_q,
            len(rows),
        )
        *due, self.eager_state = self.model.step(text, audio, self.eager_state, rows, batch)
        *results, self.state = self.compiled.step(text, audio, self.state, rows, batch)
        mx.eval(*due, *results, self.eager_state, self.state)
        self.steps[lanes] += 1
        for mine, theirs in zip(results, due, strict=True):
            np.testing.assert_array_equal(np.array(mine)[: len(lanes)], np.array(theirs)[: len(lanes)])
        return np.array(results[0])[: len(lanes)], np.array(results[1])[: len(lanes)]

    def agree(self) -> None:
        """Every lane's rings and every row's position."""
        np.testing.assert_array_equal(self.state.offsets, self.eager_state.offsets)
        parts = self.state.offsets.size // (self.lanes + 1)
        scratch = [self.lanes + part * (self.lanes + 1) for part in range(parts)]
        for mine, theirs in zip(arrays(self.state), arrays(self.eager_state), strict=True):
            np.testing.assert_allclose(
                np.delete(mine, scratch, 0), np.delete(theirs, scratch, 0), atol=self.atol
            )


def arrays(state: RingKVCache) -> list[np.ndarray]:
    return [np.array(ring.astype(mx.float32)) for ring in (*state.keys, *state.values)]


EVENTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, LANES - 1), min_size=1, max_size=LANES, unique=True),
        st.integers(0, 3),  # padding
        st.none() | st.integers(0, LANES - 1),  # the lane that is reset
    ),
    min_size=6,
    max_size=14,
)


@settings(deadline=None, max_examples=8)
@given(events=EVENTS)
def test_a_compiled_step_is_a_step(model: LmModel, events: list[tuple[list[int], int, int | None]]) -> None:
    """Token for token, and rings of values of about 5 to 1e-4, whoever joins, leaves and is reset,
    across the wrap."""
    mx.disable_compile()
    try:
        both = Both(model, LANES)
        for lanes, padding, reset in events * 3:
            if reset is not None:
                both.open(reset)
            both.step(lanes, padding)
        both.agree()
    finally:
        mx.enable_compile()


@pytest.mark.parametrize("lane", range(LANES))
@pytest.mark.usefixtures("uncompiled")
def test_lanes_that_are_not_named_keep_their_state_bit_for_bit(model: LmModel, lane: int) -> None:
    """Whether the lane's ring is read in place or gathered."""
    both = Both(model, LANES)
    for _ in range(14):
        both.step(list(range(LANES)))
    before = arrays(both.state)
    both.step([lane])
    others = np.setdiff1d(np.arange(LANES), [lane])
    for old, new in zip(before, arrays(both.state), strict=True):
        np.testing.assert_array_equal(old[others], new[others])
        assert (old[lane] != new[lane]).any()


@pytest.mark.usefixtures("uncompiled")
def test_a_session_is_the_same_in_any_lane_and_batch(model: LmModel) -> None:
    """Its tokens, alone at width 1, or in any slot of a wider batch."""
    due, found = [], []
    for lanes in ([0], [3], [3, 1], [2, 0, 4], [0, 1, 2, 3, 4]):
        compiled = CompiledLm(model, LANES)
        state = model.state(LANES + 1)
        steps = []
        rng, noise = np.random.default_rng(1), np.random.default_rng(lanes)
        for step in range(30):
            tokens = noise.integers(0, 16, (len(lanes), 1 + model.config.n_q)).astype(np.int32)
            tokens[0] = rng.integers(0, 16, tokens.shape[1])
            batch = SamplingBatch.of(
                [SamplingParams(seed=len(steps)), *SETTINGS[: len(lanes) - 1]],
                [step] * len(lanes),
                [()] * len(lanes),
                model.config.dep_q,
            )
            text, audio, state = compiled.step(
                tokens[:, :1], tokens[:, 1:, None], state, np.array(lanes, np.int32), batch
            )
            steps.append([int(text[0]), *np.array(audio)[0].tolist()])
        (found if due else due).append(steps)
    assert all(each == due[0] for each in found)
    assert len({tuple(step) for step in due[0]}) > 20  # and it varies


@pytest.mark.parametrize("positions", ["rope_concat", "sin", "sin_rope", "none"])
@pytest.mark.usefixtures("uncompiled")
def test_every_position_embedding(tmp_path: Path, positions: str) -> None:
    """A compiled step equals the model's for each kind of position embedding."""
    both = Both(made(tmp_path, {"positional_embedding": positions, "kv_repeat": 2}), 2)
    for _ in range(16):
        both.step([1, 0])
    both.agree()


@pytest.mark.usefixtures("uncompiled")
def test_guidance_keeps_both_halves(tmp_path: Path) -> None:
    """With guidance, the rows with the null conditions are read in place, too."""
    lut = {"n_bins": 3, "dim": 8, "tokenizer": "noop", "possible_values": ["very_bad", "very_good"]}
    conditions = {
        "conditioners": {"description": {"type": "lut", "lut": lut}},
        "fuser": {"sum": ["description"]},
    }
    both = Both(made(tmp_path, conditions, cfg_coef=2.5), 5)
    for step in range(20):
        both.step([[0, 3, 1], [4], [2, 4]][step % 3], padding=step % 2)
    both.agree()


@pytest.mark.usefixtures("uncompiled")
def test_rotary_angles_are_exact_after_a_day(model: LmModel) -> None:
    """After a million steps, where float32 has no precision left, positions are still exact."""
    both = Both(model, 1)
    for _ in range(13):
        both.step([0])
    for state in (both.eager_state, both.state):
        state.offsets[0] = 1_000_000 * model.config.transformer.context + 13
    for _ in range(15):
        both.step([0])
    both.agree()


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.usefixtures("uncompiled")
def test_in_bfloat16_and_with_packed_weights(tmp_path: Path, bits: int | None) -> None:
    """The same tokens in a GPU's dtypes, dense and quantized; rings agree to 0.02 of values of about 1."""
    model = made(tmp_path, {"dim": 64, "depformer_dim": 32, "depformer_dim_feedforward": 96}, mx.bfloat16)
    if bits is not None:
        how = Quantization(bits, 32)
        packed = []
        for name, weight in tree_flatten(model.parameters()):
            if how.divides(weight.shape):
                packed.append((name, Quantized(*mx.quantize(weight, group_size=32, bits=bits), how)))
        install(model, packed)
        model._fuse_weights()
    both = Both(model, 3, atol=0.02)
    for step in range(18):
        both.step([[0, 2, 1], [1], [2, 0]][step % 3])
    both.agree()
    assert both.state.keys[0].dtype == mx.bfloat16


@pytest.mark.skipif(
    prepare().device == "cpu" and shutil.which("g++") is None, reason="MLX compiles for a CPU with g++"
)
def test_a_step_is_traced_once_and_writes_its_rings_in_place(tmp_path: Path) -> None:
    """Really compiled: one trace for a shape, before the first step, and none after it; tokens and rings
    are those of the model, across the wrap; and the rings are written in place, without a copy."""
    slots = 4096
    model = made(tmp_path, {"context": slots, "num_layers": 1, "depformer_num_layers": 1, "dep_q": 1})
    both = Both(model, 1)
    keys = both.compiled.shape_keys()
    assert [key.ring_slots for key in keys] == [4 << power for power in range(11)]
    both.compiled.shape_keys = lambda: keys[-1:]  # one is enough: each takes the compiler seconds
    both.state = both.compiled.warmup(both.state)
    assert both.compiled.functions.traces == 1
    for state in (both.eager_state, both.state):
        state.offsets[0] = slots - 5
    ring_bytes = both.state.keys[0].nbytes
    for step in range(12):
        both.step([0], padding=step % 2)
    both.eager_state = None
    before = mx.get_active_memory()
    text, audio = np.zeros((1, 1), np.int32), np.zeros((1, model.config.n_q, 1), np.int32)
    mx.reset_peak_memory()
    for _ in range(3):
        token, codes, both.state = both.compiled.step(text, audio, both.state, np.zeros(1, np.int32))
        mx.eval(token, codes, both.state)
    assert mx.get_peak_memory() - before < ring_bytes
    assert both.compiled.functions.traces == 1
