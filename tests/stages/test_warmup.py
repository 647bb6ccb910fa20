"""Warm-up steps of the language model change no session."""

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


def tokens(stepper: StepperStage, *, warming_up: bool) -> list[list[int]]:
    """The tokens of two lanes for the same codes, with or without warm-up steps between theirs."""
    generator = np.random.Generator(np.random.PCG64(3))
    for lane in (0, 2):
        stepper.open(lane, SamplingParams(seed=lane))
    results = []
    for step in range(STEPS):
        if warming_up:
            stepper.warmup(reset=step % 7 == 0)
        codes = generator.integers(0, 32, (2, 8)).astype(np.int32)
        results.append([result.token for result in stepper.step([0, 2], codes)])
        alone = generator.integers(0, 32, (1, 8)).astype(np.int32)
        results.append([stepper.step([2], alone)[0].token])
    return results


def test_warmup_changes_no_session(load) -> None:
    """The tokens of every lane are the same, whatever the scratch row does between their steps."""
    assert tokens(load(), warming_up=True) == tokens(load(), warming_up=False)


def test_warmup_takes_a_step(load) -> None:
    """It advances the scratch row by one position, after a reset with `reset`, and no other row."""
    stepper = load()
    for step in range(2 * STEPS):
        stepper.warmup(reset=step == STEPS)
    lanes, scratch = np.split(np.asarray(stepper._state.offsets)[:4], [3])
    assert lanes.tolist() == [0, 0, 0]
    assert scratch.tolist() == [STEPS]
