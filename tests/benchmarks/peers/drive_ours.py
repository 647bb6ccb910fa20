"""Drives this project as its server does: three stages, with as many lanes as the widest batch."""

import importlib.metadata
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from driving import drive, read_job

from pipeline import backend
from pipeline.config import read_config
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.values import GREEDY, SamplingParams


class Codec:
    def __init__(self, encoder: EncoderStage, decoder: DecoderStage, lanes: range) -> None:
        self._encoder, self._decoder, self._lanes = encoder, decoder, lanes
        for lane in lanes:
            encoder.open(lane, GREEDY)
            decoder.open(lane, GREEDY)

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        return self._encoder.encode(self._lanes, pcm)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self._decoder.decode(self._lanes, codes)


class Language:
    def __init__(self, stepper: StepperStage, lanes: range, *, greedy: bool) -> None:
        self._stepper, self._lanes = stepper, lanes
        for lane in lanes:
            stepper.open(lane, GREEDY if greedy else SamplingParams(seed=lane))

    def step(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        steps = self._stepper.step(self._lanes, codes)
        agent = [step.codes for step in steps if step.codes is not None]
        return np.array([step.token for step in steps]), np.stack(agent) if agent else None


class Driver:
    early_frames = 0

    def __init__(self, job: dict[str, Any]) -> None:
        machine = backend.prepare()
        self.versions = {
            "packet-voice": importlib.metadata.version("packet-voice"),
            "mlx": machine.mlx_version,
            "device": machine.device,
            "blas": machine.blas.name,
            "kernels": getattr(backend.kernels(), "instruction_set", "off"),
        }
        self._job = job

    @cached_property
    def _stages(self) -> ModelStages:
        lanes = max(self._job["widths"])
        return open_stages(
            read_config(Path(self._job["config"]), [f"lanes.max={lanes}", *self._job["options"]])
        )

    @cached_property
    def _codec_stages(self) -> tuple[EncoderStage, DecoderStage]:
        return self._stages.load_encoder(), self._stages.load_decoder()

    @cached_property
    def _stepper(self) -> StepperStage:
        return self._stages.load_stepper()

    def codec(self, width: int) -> Codec:
        return Codec(*self._codec_stages, range(width))

    def language(self, width: int, *, greedy: bool) -> Language:
        return Language(self._stepper, range(width), greedy=greedy)


if __name__ == "__main__":
    drive(Driver, read_job())
