"""Measuring the language model touches nobody's session."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import read_config
from pipeline.stages.model_stages import open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.values import SamplingParams

STEPS = 20  # more than three times the language model's context


@pytest.fixture(scope="module")
def load(checkpoint: Path):
    return open_stages(read_config(checkpoint, ["lanes.max=3"])).load_stepper


def tokens(stepper: StepperStage, *, rehearsing: bool) -> list[list[int]]:
    """What two lanes say to the same codes, with or without steps of nobody between theirs."""
    generator = np.random.Generator(np.random.PCG64(3))
    for lane in (0, 2):
        stepper.open(lane, SamplingParams(seed=lane))
    said = []
    for step in range(STEPS):
        if rehearsing:
            stepper.warmup(anew=step % 7 == 0)
        codes = generator.integers(0, 32, (2, 8)).astype(np.int32)
        said.append([result.token for result in stepper.step([0, 2], codes)])
        alone = generator.integers(0, 32, (1, 8)).astype(np.int32)
        said.append([stepper.step([2], alone)[0].token])
    return said


def test_sessions_do_not_notice(load) -> None:
    """The tokens of every lane are the same, whatever the scratch row does between their steps."""
    assert tokens(load(), rehearsing=True) == tokens(load(), rehearsing=False)


def test_a_rehearsal_is_a_step(load) -> None:
    """It takes the scratch row one position on, from the beginning where asked to, and no other row."""
    stepper = load()
    for step in range(2 * STEPS):
        stepper.warmup(anew=step == STEPS)
    lanes, scratch = np.split(np.asarray(stepper._state.offsets)[:4], [3])
    assert lanes.tolist() == [0, 0, 0]
    assert scratch.tolist() == [STEPS]
