"""A compiled function samples the same tokens with the same uniforms."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.compiled.inputs import Layout
from pipeline.models.compiled.sampling import CompiledSampler
from pipeline.models.sampling import REPETITION_CONTEXT, BatchSampler, SamplingBatch
from pipeline.values import SamplingParams

VOCABULARY = 12
PADDING = 3

SETTINGS = st.builds(
    SamplingParams,
    temperature=st.just(0.0) | st.floats(0.0625, 3, width=32),
    top_k=st.integers(0, VOCABULARY + 2),
    text_temperature=st.just(0.0) | st.floats(0.0625, 3, width=32),
    text_top_k=st.integers(0, VOCABULARY + 2),
    padding_bias=st.sampled_from([0.0, -1.5, 4.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    seed=st.integers(0, 99),
)


@settings(deadline=None, max_examples=150)
@given(
    lanes=st.lists(
        st.tuples(
            SETTINGS,
            st.integers(0, 99),
            st.lists(st.integers(0, VOCABULARY - 1), max_size=9),
        ),
        min_size=1,
        max_size=5,
    ),
    padding=st.integers(0, 2),
    seed=st.integers(0, 999),
    tied=st.booleans(),
)
def test_compiled_sampling_equals_sampling_on_the_host(
    lanes: list[tuple[SamplingParams, int, list[int]]], padding: int, seed: int, *, tied: bool
) -> None:
    """Text and audio, for any mix of parameters: greedy or not, limited or not, penalised, biased, tied."""
    rows = len(lanes) + padding
    batch = SamplingBatch.of(*map(list, zip(*lanes, strict=True)), dep_q=2, width=rows)
    logits = np.random.default_rng(seed).standard_normal((3, rows, VOCABULARY)).astype(np.float32) * 3
    if tied:
        logits = np.round(logits)
    integers, floats = SamplingBatch.packed_columns(2)
    layout = Layout(integers, floats)
    inputs = layout.unpack(*layout.pack(batch.pack(2)))
    mine, theirs = CompiledSampler(inputs, PADDING), BatchSampler(batch, PADDING)
    count = len(lanes)
    assert (
        mine.text(mx.array(logits[0])).tolist()[:count] == theirs.text(mx.array(logits[0])).tolist()[:count]
    )
    for codebook in range(2):
        given_logits = mx.array(logits[1 + codebook])
        assert (
            mine.audio(given_logits, codebook).tolist()[:count]
            == theirs.audio(given_logits, codebook).tolist()[:count]
        )


def test_the_newest_tokens_of_a_long_context_are_penalised() -> None:
    """Of more tokens than there are columns, the oldest are dropped."""
    setting = SamplingParams(repetition_penalty=1e6, text_temperature=0.0, temperature=0.0)
    batch = SamplingBatch.of([setting], [0], [[7, *[2] * (REPETITION_CONTEXT - 1), 5]], 0)
    integers, floats = SamplingBatch.packed_columns(0)
    layout = Layout(integers, floats)
    inputs = layout.unpack(*layout.pack(batch.pack(0)))
    logits = np.full((1, VOCABULARY), 0.1, np.float32)
    logits[0, [5, 2, 7]] = 3, 2, 1
    assert CompiledSampler(inputs, PADDING).text(mx.array(logits)).tolist() == [7]
