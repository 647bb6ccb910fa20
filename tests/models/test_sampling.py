"""Tokens follow the distribution of their row's parameters."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.sampling import (
    SamplingBatch,
    SamplingTensors,
    TokenSampler,
    process_text_logits,
    uniforms,
)
from pipeline.values import GREEDY, SamplingParams

LOGITS = np.array([0.3, 2.0, -1.0, 1.1, 0.9, -4.0, 1.6, 0.0, -0.2, 2.4], np.float32)


def choice(temperature: list[float], top_k: list[int]) -> SamplingTensors:
    return SamplingTensors(np.array(temperature, np.float32), np.array(top_k, np.int32))


def draw(logits: np.ndarray, how: SamplingTensors, numbers: np.ndarray) -> np.ndarray:
    return np.array(TokenSampler(how).sample(mx.array(logits), mx.array(numbers[:, None])))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.6, 0), (1.0, 4), (1.7, 10), (0.8, 1)])
def test_frequencies_are_the_softmax_of_the_best(temperature: float, top_k: int) -> None:
    """40,000 seeded draws: each token within 5 standard deviations of its probability."""
    draws = 40_000
    numbers = np.concatenate([uniforms(11, step, 4) for step in range(draws // 4)])
    tokens = draw(
        np.tile(LOGITS, (draws, 1)),
        choice([temperature] * draws, [top_k] * draws),
        numbers,
    )
    threshold = np.sort(LOGITS)[-(top_k or len(LOGITS))]
    kept = np.greater_equal(LOGITS, threshold)
    expected = softmax(np.where(kept, LOGITS / temperature, -np.inf))
    frequencies = np.bincount(tokens, minlength=len(LOGITS)) / draws
    bound = 5 * np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequencies - expected) <= bound).all()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 3, width=32), st.integers(0, 14), st.integers(0, 2**31)),
        min_size=2,
        max_size=5,
    ),
    data=st.data(),
)
def test_a_row_depends_on_itself_alone(rows: list[tuple[float, int, int]], data: st.DataObject) -> None:
    """Its token is the same whatever the other rows have, and among its k best."""
    temperature, top_k, seeds = (list(column) for column in zip(*rows, strict=True))
    logits = np.random.default_rng(seeds).standard_normal((len(rows), 12)).astype(np.float32)
    numbers = np.array([uniforms(seed, 0, 1)[0] for seed in seeds])
    together = draw(logits, choice(temperature, top_k), numbers)
    mine = data.draw(st.integers(0, len(rows) - 1))
    others = np.arange(len(rows)) != mine
    logits[others] = np.random.default_rng(1).standard_normal((others.sum(), 12)) * 5
    numbers[others] = 0.5
    for row in np.flatnonzero(others):
        temperature[row], top_k[row] = data.draw(st.sampled_from([(0.0, 0), (2.0, 5), (1.0, 0)]))
    beside = draw(logits, choice(temperature, top_k), numbers)
    assert beside[mine] == together[mine]
    rank = (logits[mine] > logits[mine, beside[mine]]).sum()
    if temperature[mine] == 0:
        assert rank == 0
    elif top_k[mine] > 0:
        assert rank < top_k[mine]


def test_the_smallest_temperature_samples_the_best_token() -> None:
    """A temperature that is almost 0 in float32 is valid."""
    tokens = draw(LOGITS[None], choice([2.0**-149], [0]), np.array([0.999], np.float32))
    assert int(tokens[0]) == LOGITS.argmax()


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_sample_possible_tokens(number: float) -> None:
    """Neither end gives a token outside the k best, or outside the vocabulary."""
    tokens = draw(LOGITS[None], choice([1.0], [3]), np.array([number], np.float32))
    assert int(tokens[0]) in set(np.argsort(LOGITS)[-3:].tolist())
    assert int(tokens[0]) == (1 if number == 0 else 9)


def test_random_numbers_are_a_function_of_seed_and_step() -> None:
    """The same again for the same; others for another seed or step; all in [0, 1)."""
    again = [uniforms(5, 9, 17), uniforms(5, 9, 17)]
    np.testing.assert_array_equal(*again)
    assert (uniforms(5, 10, 17) != again[0]).all()
    assert (uniforms(6, 9, 17) != again[0]).all()
    many = np.concatenate([uniforms(-1, step, 17) for step in range(500)])
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean() - 0.5) < 0.02


def test_padding_bias_moves_one_logit_of_its_row() -> None:
    """By exactly the bias, and nothing in a row without."""
    lanes = [SamplingParams(padding_bias=2.5), GREEDY, SamplingParams(padding_bias=-1.0)]
    batch = SamplingBatch.of(lanes, [0, 0, 0], [[], [], []], 4)
    moved = np.array(process_text_logits(mx.array(np.tile(LOGITS, (3, 1))), batch, padding_id=3)) - LOGITS
    expected = np.zeros((3, 10), np.float32)
    expected[:, 3] = [2.5, 0, -1]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@given(recent=st.lists(st.integers(0, 9), max_size=20), penalty=st.floats(1.25, 4, width=32))
@settings(deadline=None, max_examples=40)
def test_a_penalty_weakens_repeated_tokens_and_nothing_else(recent: list[int], penalty: float) -> None:
    """Positive logits are divided, negative ones multiplied, once however often a token was repeated."""
    lanes = [SamplingParams(repetition_penalty=penalty), SamplingParams()]
    batch = SamplingBatch.of(lanes, [0, 0], [recent, recent], 4)
    shaped = np.array(process_text_logits(mx.array(np.tile(LOGITS, (2, 1))), batch, padding_id=3))
    weakened = np.where(LOGITS > 0, LOGITS / np.float32(penalty), LOGITS * np.float32(penalty))
    repeated = np.isin(np.arange(10), recent)
    np.testing.assert_allclose(shaped[0], np.where(repeated, weakened, LOGITS), rtol=1e-6)
    np.testing.assert_array_equal(shaped[1], LOGITS)


def test_padding_rows_are_greedy_and_take_no_random_numbers() -> None:
    """A batch is padded to its width; if all rows are greedy, there are no uniforms."""
    assert SamplingBatch.of([GREEDY], [3], [[]], 4, width=4).uniforms is None
    batch = SamplingBatch.of([SamplingParams(seed=2)], [3], [[1]], 4, width=4)
    assert batch.uniforms is not None
    np.testing.assert_array_equal(batch.uniforms[0], uniforms(2, 3, 5))
    np.testing.assert_array_equal(batch.text.temperature[1:], 0)
    np.testing.assert_array_equal(batch.repetition_penalty[1:], 1)
    assert len(batch.repetition_context) == 4
