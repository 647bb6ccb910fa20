"""Drives this project as its server does: three stages, with as many lanes as the widest batch."""

import importlib.metadata
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from driving import drive, drive_products, read_job, rows, weight

from pipeline import backend
from pipeline.config import read_config
from pipeline.kernels.library import Library
from pipeline.models.quantization import PUBLISHED_GROUPS
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.values import GREEDY, SamplingParams

import mlx.core as mx  # isort: skip - after the BLAS


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


def _versions() -> dict[str, str]:
    machine = backend.prepare()
    return {
        "packet-voice": importlib.metadata.version("packet-voice"),
        "mlx": machine.mlx_version,
        "device": machine.device,
        "blas": machine.blas.name,
        "kernels": getattr(backend.kernels(), "instruction_set", "off"),
    }


class Products:
    """Each product is an operation of its own, unlike in a step."""

    def __init__(self, native: Any, matrices: list[Any], count: int) -> None:
        self._native, self._matrices = native, matrices
        widths = {matrix.shape[1] for matrix in matrices}
        self._inputs = {width: mx.array(rows(width, count)) for width in widths}

    def run(self) -> list[np.ndarray]:
        ys = [self._native.linear(self._inputs[m.shape[1]], m) for m in self._matrices]
        mx.eval(ys)
        return [np.array(y, copy=False) for y in ys]


class ProductDriver:
    def __init__(self, job: dict[str, Any]) -> None:
        self.versions = _versions()
        library = backend.kernels()
        if not isinstance(library, Library):
            raise SystemExit(f"no native kernels: {library.reason}")
        self._native = library.native
        self._native.set_threads(job["threads"])
        stored = job["stored"]
        self._matrices = [self._matrix(weight(n, shape), stored) for n, shape in enumerate(job["products"])]

    def _matrix(self, numbers: np.ndarray, stored: str) -> Any:
        if stored.endswith(" bits"):
            bits = int(stored.partition(" ")[0])
            group = PUBLISHED_GROUPS[bits]
            parts = mx.quantize(mx.array(numbers).astype(mx.bfloat16), group_size=group, bits=bits)
            mx.eval(parts)
            return self._native.Matrix(*parts, bits, group)
        dense = mx.array(numbers).astype(getattr(mx, stored))
        mx.eval(dense)
        return self._native.Matrix(dense)

    def products(self, width: int) -> Products:
        return Products(self._native, self._matrices, width)


class Driver:
    early_frames = 0

    def __init__(self, job: dict[str, Any]) -> None:
        self.versions = _versions()
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
    job = read_job()
    if job["kind"] == "products":
        drive_products(ProductDriver, job)
    else:
        drive(Driver, job)
