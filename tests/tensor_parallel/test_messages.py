"""A message says what was put into it, whatever that is, and has one size."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.sampling import SamplingBatch
from pipeline.stages.tensor_parallel.messages import RECENT, Form, Order, StepOrder, Word
from pipeline.values import Sampling

FORM = Form(rows=5, width=4, n_q=6, dep_q=3)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0, 2, width=32),
    top_k=st.integers(0, 300),
    text_temperature=st.floats(0, 2, width=32),
    text_top_k=st.integers(0, 300),
    padding_bias=st.floats(-3, 3, width=32),
    repetition_penalty=st.floats(0.5, 2, width=32),
    seed=st.integers(0, 2**63),
)


@st.composite
def steps(draw: st.DrawFn) -> StepOrder:
    width = draw(st.integers(1, FORM.width))
    lanes = draw(st.integers(0, width))
    tokens = st.integers(-1, 2**31 - 1)

    def array(*shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.array(draw(st.lists(tokens, min_size=count, max_size=count)), np.int32).reshape(shape)

    recent = [draw(st.lists(st.integers(0, 2**31 - 1), max_size=RECENT)) for _ in range(lanes)]
    samplings: Sequence[Sampling] = [draw(SAMPLINGS) for _ in range(lanes)]
    return StepOrder(
        resets=tuple(sorted(draw(st.sets(st.integers(0, FORM.rows - 1))))),
        rows=np.array(draw(st.permutations(range(FORM.rows)))[:width], np.int32),
        text=array(width),
        audio=array(width, FORM.n_q),
        batch=SamplingBatch.of(samplings, range(lanes), recent, FORM.dep_q, width),
    )


@given(steps())
def test_a_step_arrives_as_it_was_ordered(step: StepOrder) -> None:
    """To the bit, through the 32-bit numbers that are exchanged."""
    sent = FORM.of_step(step)
    assert sent.nbytes == 4 * FORM.numbers
    there = FORM.step_in(sent.view(np.int32).copy().view(FORM.dtype))
    assert there.resets == step.resets
    for name in ("rows", "text", "audio"):
        np.testing.assert_array_equal(getattr(there, name), getattr(step, name))
    ours, theirs = step.batch, there.batch
    for name in ("padding_bias", "repetition_penalty", "uniforms"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    for mine, other in ((ours.text, theirs.text), (ours.audio, theirs.audio)):
        np.testing.assert_array_equal(other.temperature, mine.temperature)
        np.testing.assert_array_equal(other.top_k, mine.top_k)
    assert [tokens.tolist() for tokens in theirs.recent] == [tokens.tolist() for tokens in ours.recent]


@pytest.mark.parametrize("order", [Order.BEAT, Order.END])
def test_other_messages_are_as_long(order: Order) -> None:
    """A rank never has to be told how much to read."""
    message = FORM.message(order, value=70, word=Word.LOADED | Word.LEAVING)
    assert message.nbytes == 4 * FORM.numbers
    assert (message["order"][0], message["value"][0]) == (order, 70)
    assert Word(int(message["word"][0])) == Word.LOADED | Word.LEAVING
