"""A stage that fails on a batch leaves every lane as it was, or says that it cannot."""

import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.checkpoints import write_folder

from pipeline.config import read_config
from pipeline.errors import StateLostError
from pipeline.models.evaluation import settle
from pipeline.stages.chain import open_chain
from pipeline.values import Sampling


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder: Path = write_folder(tmp_path_factory.mktemp("small"), settings={"lanes": {"max": 3}})
    return open_chain(read_config(folder))


def tokens(chain, *, fails_at: int | None) -> list[int]:
    """What lane 1 says in twelve steps, beside lane 0 whose call raises in one of them."""
    stepper = chain.load_stepper()
    rng = np.random.default_rng(1)
    heard = rng.integers(0, 32, (12, 1, 4)).astype(np.int32)
    for lane in (0, 1):
        stepper.open(lane, Sampling(seed=lane))
    said = []
    for step, codes in enumerate(heard):
        if step == fails_at:
            layer = stepper._model.transformer.layers[-1]
            whole = type(layer).step

            def failing(*_):
                raise ArithmeticError("diverged")

            type(layer).step = failing
            try:
                with pytest.raises(ArithmeticError):
                    stepper.step([0], codes)
            finally:
                type(layer).step = whole
        (made,) = stepper.step([1], codes)
        said.append((made.token, None if made.codes is None else made.codes.tolist()))
    return said


def test_what_raises_before_the_evaluation_leaves_the_neighbours_whole(chain):
    """A call that fails in the middle of a model, on another lane, changes no token of this one."""
    assert tokens(chain, fails_at=8) == tokens(chain, fails_at=None)


def test_an_evaluation_that_fails_is_a_lost_state():
    """Here of an array that only another thread could have computed."""
    foreign: list[mx.array] = []
    thread = threading.Thread(target=lambda: foreign.append(mx.ones(3) + 1))
    thread.start()
    thread.join()
    with pytest.raises(StateLostError, match="encoder lost its state"):
        settle("encoder", foreign[0])


@pytest.mark.parametrize("in_parts", [True, False])
def test_results_are_there_and_the_state_follows(*, in_parts: bool):
    """Waited for or not, a state is what the call made it, and the next call goes on from it."""
    state = mx.zeros((64, 64))
    for call in range(20):
        result = state.sum()
        state = state + 1
        settle("encoder", result, state=(state, np.arange(3)), marks=[result * 2], in_parts=in_parts)
        assert result.item() == 64 * 64 * call
    assert (np.array(state) == 20).all()


def test_a_state_that_cannot_be_computed_is_lost():
    """Also where only results are waited for; here it is one that only another thread could compute."""
    foreign: list[mx.array] = []
    thread = threading.Thread(target=lambda: foreign.append(mx.ones(3) + 1))
    thread.start()
    thread.join()
    with pytest.raises(StateLostError, match="stepper lost its state"):
        settle("stepper", mx.ones(2) * 2, state=foreign[0], in_parts=False)
