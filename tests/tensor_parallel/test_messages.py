"""Messages between ranks carry a step unchanged and have one size."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.sampling import REPETITION_CONTEXT, SamplingBatch
from pipeline.stages.tensor_parallel.messages import Command, MessageLayout, RankStatus, StepCommand
from pipeline.values import SamplingParams

LAYOUT = MessageLayout(rows=5, width=4, n_q=6, dep_q=3)
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2, width=32),
    top_k=st.integers(0, 300),
    text_temperature=st.floats(0, 2, width=32),
    text_top_k=st.integers(0, 300),
    padding_bias=st.floats(-3, 3, width=32),
    repetition_penalty=st.floats(0.5, 2, width=32),
    seed=st.integers(0, 2**63),
)


@st.composite
def steps(draw: st.DrawFn) -> StepCommand:
    width = draw(st.integers(1, LAYOUT.width))
    lanes = draw(st.integers(0, width))
    tokens = st.integers(-1, 2**31 - 1)

    def array(*shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.array(draw(st.lists(tokens, min_size=count, max_size=count)), np.int32).reshape(shape)

    contexts = [draw(st.lists(st.integers(0, 2**31 - 1), max_size=REPETITION_CONTEXT)) for _ in range(lanes)]
    samplings: Sequence[SamplingParams] = [draw(SAMPLINGS) for _ in range(lanes)]
    return StepCommand(
        resets=tuple(sorted(draw(st.sets(st.integers(0, LAYOUT.rows - 1))))),
        rows=np.array(draw(st.permutations(range(LAYOUT.rows)))[:width], np.int32),
        text=array(width),
        audio=array(width, LAYOUT.n_q),
        batch=SamplingBatch.of(samplings, range(lanes), contexts, LAYOUT.dep_q, width),
    )


@given(steps())
def test_a_step_is_packed_and_unpacked_unchanged(step: StepCommand) -> None:
    """Bit for bit, through the 32-bit numbers that are exchanged."""
    sent = LAYOUT.pack_step(step)
    assert sent.nbytes == 4 * LAYOUT.numbers
    received = LAYOUT.unpack_step(sent.view(np.int32).copy().view(LAYOUT.dtype))
    assert received.resets == step.resets
    for name in ("rows", "text", "audio"):
        np.testing.assert_array_equal(getattr(received, name), getattr(step, name))
    ours, theirs = step.batch, received.batch
    for name in ("padding_bias", "repetition_penalty", "uniforms"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    for mine, other in ((ours.text, theirs.text), (ours.audio, theirs.audio)):
        np.testing.assert_array_equal(other.temperature, mine.temperature)
        np.testing.assert_array_equal(other.top_k, mine.top_k)
    assert [tokens.tolist() for tokens in theirs.repetition_context] == [
        tokens.tolist() for tokens in ours.repetition_context
    ]


@pytest.mark.parametrize("command", [Command.HEARTBEAT, Command.END])
def test_all_messages_have_one_size(command: Command) -> None:
    """So that a rank knows how much to receive."""
    message = LAYOUT.message(command, value=70, status=RankStatus.LOADED | RankStatus.LEAVING)
    assert message.nbytes == 4 * LAYOUT.numbers
    assert (message["command"][0], message["value"][0]) == (command, 70)
    assert RankStatus(int(message["status"][0])) == RankStatus.LOADED | RankStatus.LEAVING
