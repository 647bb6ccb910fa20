"""Stages with compiled functions give the same frames for the same sessions."""

import functools
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pipeline.config import read_config
from pipeline.stages import model_stages as module
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.values import SamplingParams

FRAMES = 24  # four times the language model's context


@pytest.fixture
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


def results(stages: ModelStages) -> list[tuple[int, int, list[str], bytes | None]]:
    """Three lanes that open and close, with warm-up steps between: tokens, text, and sound to five digits."""
    encoder, stepper, decoder = stages.load_encoder(), stages.load_stepper(), stages.load_decoder()
    out = []
    rng = np.random.default_rng(4)
    for lane in range(3):
        for stage in (encoder, stepper, decoder):
            stage.open(lane, SamplingParams(seed=lane))
    for frame in range(FRAMES):
        lanes = [[0, 1, 2], [2], [1, 0]][frame % 3]
        if frame == 10:
            for stage in (encoder, stepper, decoder):
                stage.close(1)
                stage.open(1, SamplingParams(seed=8, repetition_penalty=1.4))
        if frame % 5 == 0:
            stepper.warmup(reset=frame == 0)
        codes = encoder.encode(lanes, rng.uniform(-0.3, 0.3, (len(lanes), 1920)).astype(np.float32))
        steps = stepper.step(lanes, codes)
        ready = [
            (lane, step.codes) for lane, step in zip(lanes, steps, strict=True) if step.codes is not None
        ]
        pcm = decoder.decode([lane for lane, _ in ready], np.stack([c for _, c in ready])) if ready else []
        for lane, step in zip(lanes, steps, strict=True):
            out.append((frame, lane, step.token, [text.text for text in step.text]))
        out.extend((frame, lane, np.round(sound, 5)) for (lane, _), sound in zip(ready, pcm, strict=True))
    return out


@pytest.mark.usefixtures("uncompiled")
def test_compiled_stages_equal_eager_stages(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and text are equal, sound to 2e-5, for lanes that open, close and wait."""
    stages = open_stages(read_config(checkpoint, ["lanes.max=3"]))
    due = results(stages)
    for name in ("EncoderStage", "StepperStage", "DecoderStage"):
        stage = getattr(module, name)
        monkeypatch.setattr(module, name, functools.partial(stage, compiles=True))
    found = results(stages)
    assert len(due) == len(found) > 2 * FRAMES
    for one, other in zip(due, found, strict=True):
        if isinstance(one[-1], np.ndarray):
            assert one[:2] == other[:2]
            np.testing.assert_allclose(one[2], other[2], atol=2e-5)
        else:
            assert one == other
