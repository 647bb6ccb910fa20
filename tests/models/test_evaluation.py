"""A stage that fails on a batch leaves every lane as it was, or raises `StateLostError`."""

import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.checkpoints import write_folder

from pipeline.config import read_config
from pipeline.errors import StateLostError
from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.stages.model_stages import open_stages
from pipeline.values import SamplingParams


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder: Path = write_folder(tmp_path_factory.mktemp("small"), settings={"lanes": {"max": 3}})
    return open_stages(read_config(folder))


def tokens(stages, *, fails_at: int | None) -> list[int]:
    """The tokens of lane 1 in twelve steps, beside lane 0, whose call raises in one of them."""
    stepper = stages.load_stepper()
    rng = np.random.default_rng(1)
    inputs = rng.integers(0, 32, (12, 1, 4)).astype(np.int32)
    for lane in (0, 1):
        stepper.open(lane, SamplingParams(seed=lane))
    tokens = []
    for step, codes in enumerate(inputs):
        if step == fails_at:
            model = type(stepper._model)
            whole = model.sample  # behind the transformer, with native kernels and without

            def failing(*_):
                raise ArithmeticError("diverged")

            model.sample = failing
            try:
                with pytest.raises(ArithmeticError):
                    stepper.step([0], codes)
            finally:
                model.sample = whole
        (made,) = stepper.step([1], codes)
        tokens.append((made.token, None if made.codes is None else made.codes.tolist()))
    return tokens


def test_a_failure_before_the_evaluation_leaves_other_lanes_unchanged(stages):
    """A call that fails in the middle of a model, on another lane, changes no token of this one."""
    assert tokens(stages, fails_at=8) == tokens(stages, fails_at=None)


def test_a_failed_evaluation_loses_the_state():
    """Here of an array that only another thread could have computed."""
    foreign: list[mx.array] = []
    thread = threading.Thread(target=lambda: foreign.append(mx.ones(3) + 1))
    thread.start()
    thread.join()
    with pytest.raises(StateLostError, match="encoder lost its state"):
        evaluate("encoder", foreign[0])


@pytest.mark.parametrize("in_parts", [True, False])
def test_results_are_evaluated_and_the_state_follows(*, in_parts: bool):
    """Whether it was waited for or not, the next call continues from the new state."""
    state = mx.zeros((64, 64))
    for call in range(20):
        result = state.sum()
        state = state + 1
        schedule = EvalSchedule()
        schedule.add(result * 2)
        evaluate("encoder", result, state=(state, np.arange(3)), schedule=schedule, in_parts=in_parts)
        assert schedule.points == []
        assert result.item() == 64 * 64 * call
    assert (np.array(state) == 20).all()


def test_a_state_that_cannot_be_computed_is_lost():
    """Also where only results are waited for; here it is an array that only another thread can compute."""
    foreign: list[mx.array] = []
    thread = threading.Thread(target=lambda: foreign.append(mx.ones(3) + 1))
    thread.start()
    thread.join()
    with pytest.raises(StateLostError, match="stepper lost its state"):
        evaluate("stepper", mx.ones(2) * 2, state=foreign[0], in_parts=False)
