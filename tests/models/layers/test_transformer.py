"""Rings, windows and rows: steps equal the whole sequence, for each lane by itself."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models.transformers import forms_of

from pipeline.models.layers.attention import AttentionMetadata, RotaryEmbedding
from pipeline.models.layers.transformer import Transformer, TransformerConfig, gating_width, gelu

ROPE = TransformerConfig(d_model=16, num_heads=4, num_layers=2, dim_feedforward=24, context=5)
VARIANTS = forms_of(ROPE)


def model_and_input(config: TransformerConfig, frames: int) -> tuple[Transformer, mx.array]:
    mx.random.seed(7)
    model = Transformer(config)
    x = mx.random.normal((1, frames, config.d_model))
    mx.eval(model.parameters(), x)
    return model, x


@pytest.mark.parametrize("config", VARIANTS)
def test_steps_are_the_whole_across_the_wrap(config: TransformerConfig) -> None:
    """Position by position through a ring of 5 equals windowed attention over all 23 at once."""
    model, x = model_and_input(config, 23)
    state = model.state(1)
    steps = []
    for t in range(23):
        y, state = model(x[:, t : t + 1], state, np.zeros(1, np.int32))
        steps.append(y)
    np.testing.assert_allclose(np.array(mx.concatenate(steps, axis=1)), np.array(model.forward(x)), atol=2e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_what_comes_later_changes_nothing(config: TransformerConfig) -> None:
    """The first 9 positions are the same bits whatever the others hold, and the tenth is not."""
    model, x = model_and_input(config, 14)
    other = mx.concatenate([x[:, :9], x[:, 9:] + 1], axis=1)
    one, two = np.array(model.forward(x)), np.array(model.forward(other))
    np.testing.assert_array_equal(one[:, :9], two[:, :9])
    assert np.abs(one[:, 9:] - two[:, 9:]).max(axis=(0, 2)).min() > 1e-4


def test_a_window_is_as_long_as_the_context() -> None:
    """In one layer, position t depends on t − 4 and not on t − 5."""
    model, x = model_and_input(replace(ROPE, num_layers=1), 12)
    whole = np.array(model.forward(x))
    for back, depends in ((4, True), (5, False)):
        changed = np.array(x)
        changed[0, 10 - back] += 1
        assert (np.array(model.forward(mx.array(changed)))[0, 10] != whole[0, 10]).any() == depends


@settings(deadline=None, max_examples=40)
@given(
    context=st.integers(3, 6),
    calls=st.lists(st.tuples(st.integers(1, 3), st.permutations([0, 1, 2])), min_size=1, max_size=8),
    data=st.data(),
)
def test_rings_hold_exactly_the_last_positions(context: int, calls: list, data: st.DataObject) -> None:
    """A query attends to keys of its row at most `context − 1` back that no newer one has overwritten.

    Also where a call writes several positions before any of them attends.
    """
    random = np.random.default_rng(3)
    keys, values = mx.zeros((4, 2, context, 4)), mx.zeros((4, 2, context, 4))
    past: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(3)]
    for steps, order in calls:
        lanes = np.array(order[: data.draw(st.integers(1, 3))], np.int32)
        fresh = random.standard_normal((3, len(lanes), 2, steps, 4)).astype(np.float32)
        starts = np.array([len(past[lane]) for lane in lanes], np.int64)
        metadata = AttentionMetadata.of(starts, lanes, steps, context, heads=2)
        keys, values = metadata.write(keys, mx.array(fresh[1])), metadata.write(values, mx.array(fresh[2]))
        seen = np.array(metadata.attend(mx.array(fresh[0]), keys, values))
        for i, lane in enumerate(lanes):
            past[lane] += [(fresh[1][i, :, t], fresh[2][i, :, t]) for t in range(steps)]
            last = len(past[lane]) - 1
            for t in range(steps):
                at = int(starts[i]) + t
                held = range(max(0, last - context + 1), at + 1)
                k = np.stack([past[lane][p][0] for p in held])
                v = np.stack([past[lane][p][1] for p in held])
                scores = np.einsum("hd,phd->hp", fresh[0][i, :, t], k) / 2
                weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
                np.testing.assert_allclose(seen[i, :, t], np.einsum("hp,phd->hd", weights, v), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_grouping_rows_in_one_attention_call_changes_no_bit(steps: int) -> None:
    """Adjacent rows with equally many slots filled attend in one operation, with the result of each alone."""
    random = np.random.default_rng(2)
    rings = [mx.array(random.standard_normal((6, 2, 5, 4)).astype(np.float32)) for _ in range(2)]
    queries = random.standard_normal((5, 4, steps, 4)).astype(np.float32)
    lanes, starts = np.array([0, 1, 2, 4, 5], np.int32), np.array([2, 2, 9, 31, 8])
    metadata = AttentionMetadata.of(starts, lanes, steps, 5, heads=2)
    assert [(span.batch.start, span.batch.stop) for span in metadata.spans] == [(0, 2), (2, 3), (3, 5)]
    together = np.array(metadata.attend(mx.array(queries), *rings))
    for i in range(5):
        own = slice(i, i + 1)
        alone = AttentionMetadata.of(starts[own], lanes[own], steps, 5, heads=2)
        np.testing.assert_array_equal(np.array(alone.attend(mx.array(queries[own]), *rings))[0], together[i])


def test_the_order_of_a_batch_changes_no_bit() -> None:
    """Rows named in another order have the same results, each at its position, and the same state."""
    model, _ = model_and_input(replace(ROPE, kv_repeat=2), 1)
    x = np.random.default_rng(4).standard_normal((9, 4, 1, 16)).astype(np.float32)
    orders = [[0, 1, 2, 3], [2, 0, 3, 1]]
    found, left = [], []
    for order in orders:
        state = model.state(5)
        for frame in x:
            y, state = model(mx.array(frame[order]), state, np.array(order, np.int32))
            mx.eval(y, state.keys, state.values)
        found.append(np.array(y)[np.argsort(order)])
        left.append([np.array(ring) for ring in (*state.keys, *state.values)])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(left[0], left[1])


def test_a_call_that_would_overwrite_itself_is_refused() -> None:
    """More positions than slots is an error instead of silently lost keys."""
    with pytest.raises(ValueError, match="do not fit"):
        AttentionMetadata.of(np.zeros(1, np.int64), np.zeros(1, np.int32), 6, 5, heads=1)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_keeps_distances_at_any_age(interleaved: bool) -> None:
    """The product of a query and a key depends on their distance only, after 60 years as at once."""
    random = np.random.default_rng(5)
    q, k = (mx.array(random.standard_normal((1, 1, 1, 8)).astype(np.float32)) for _ in range(2))

    def product(at: int) -> float:
        def turned(x: mx.array, position: int) -> mx.array:
            return RotaryEmbedding.at(np.array([[position]]), 8, 10_000, interleaved=interleaved)(x)

        return float((turned(q, at + 3) * turned(k, at)).sum())

    assert product(0) == pytest.approx(product(24_000_000_000), abs=1e-4)
    assert product(0) != pytest.approx(float((q * k).sum()), abs=1e-2)


@pytest.mark.parametrize("lanes", [[0], [5, 2]])
def test_rings_are_written_in_place_and_memory_is_constant(lanes: list[int]) -> None:
    """A step allocates far less than a ring, and a thousand steps hold no more than ten."""
    model, x = model_and_input(replace(ROPE, context=4000), 1)
    x = mx.repeat(x, len(lanes), axis=0)
    state = model.state(8)
    mx.eval(state.keys, state.values)
    ring_bytes = state.keys[0].nbytes
    for step in range(60):
        y, state = model(x, state, np.array(lanes, np.int32))
        mx.eval(y)
        if step == 9:
            held_bytes = mx.get_active_memory()
            mx.reset_peak_memory()
    assert mx.get_peak_memory() - held_bytes < ring_bytes / 4
    assert mx.get_active_memory() - held_bytes < ring_bytes / 100


def test_a_step_does_not_change_the_old_state() -> None:
    """A state is a value: a step returns a new one."""
    model, x = model_and_input(ROPE, 8)
    state = model.state(2)
    lanes = np.ones(1, np.int32)
    for t in range(7):
        _, state = model(x[:, t : t + 1], state, lanes)
    before = [np.array(ring) for ring in (*state.keys, *state.values)]
    y, after = model(x[:, 7:], state, lanes)
    mx.eval(y)
    for old, ring in zip(before, (*state.keys, *state.values), strict=True):
        np.testing.assert_array_equal(old, np.array(ring))
    assert (np.array(after.keys[0]) != before[0]).any()
    assert state.offsets.tolist() == [0, 7]
    assert after.offsets.tolist() == [0, 8]


def test_gating_width_is_kyutais() -> None:
    """The widths of the published checkpoints."""
    assert gating_width(4096, int(4.125 * 4096)) == 11264
    assert gating_width(1024, 4224) == 2816
    assert gating_width(512, 4 * 512) == 1344


def test_gelu_is_the_exact_one() -> None:
    """Not the tanh approximation, which is off by up to 4e-4."""
    x = np.linspace(-4, 4, 9)
    exact = [-0.000126685, -0.004049694, -0.045500264, -0.158655254, 0, 0.841344746, 1.954499736, 2.995950306]
    np.testing.assert_allclose(np.array(gelu(mx.array(x.astype(np.float32))))[:8], exact, atol=1e-6)
