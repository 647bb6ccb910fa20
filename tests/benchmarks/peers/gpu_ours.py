"""Drives this project on a GPU as its server does, with random weights; or measures the device's rate."""

# ruff: noqa: E402 - the device is chosen before MLX is imported

import importlib.metadata
import time
from typing import Any

import numpy as np
from gpu_frames import drive

from pipeline import backend

MACHINE = backend.prepare()

import mlx.core as mx
from mlx.utils import tree_map

from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.layers.conditioning import PREFIX
from pipeline.models.layers.quantized import Quantization, Quantized, install
from pipeline.models.lm import LmModel
from pipeline.models.mimi import Mimi, MimiState
from pipeline.models.quantization import PUBLISHED_GROUPS
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.stepper import StepperStage
from pipeline.stages.text import TokenIds, UtteranceRules
from pipeline.values import SamplingParams

RULES = UtteranceRules(padding=frozenset({0, 3}), padding_run=13, max_steps=750)


def random_lm(raw: dict[str, Any], weights: str) -> LmModel:
    """A language model of `weights`, bf16, q8 or q4, one tensor at a time in memory beside it."""
    model = LmModel(parse_lm_config(raw))
    how = None if weights == "bf16" else Quantization(int(weights[1:]), PUBLISHED_GROUPS[int(weights[1:])])

    def made():
        for name, shape in model.parameter_shapes().items():
            dense = (
                mx.random.normal(shape, dtype=mx.bfloat16, scale=0.02) if len(shape) == 2 else mx.ones(shape)
            )
            weight = dense.astype(mx.bfloat16)
            if how is not None and how.divides(shape) and not name.startswith(PREFIX):
                weight = Quantized(*mx.quantize(weight, group_size=how.group, bits=how.bits), how)
            mx.eval(weight.arrays() if isinstance(weight, Quantized) else weight)
            yield name, weight

    install(model, made())
    model.dtype = mx.bfloat16
    model._fuse_weights()
    mx.eval(model.parameters())
    return model


def random_mimi(raw: dict[str, Any], codebooks: int) -> Mimi:
    mimi = Mimi(parse_mimi_config(raw), codebooks)
    mimi.update(tree_map(lambda p: mx.random.normal(p.shape, scale=0.05), mimi.parameters()))
    mx.eval(mimi.parameters())
    return mimi


class OurStages:
    def __init__(self, mimi: Mimi, lm: LmModel, width: int) -> None:
        self._lanes = range(width)
        self._context = lm.config.context
        self._encoder = EncoderStage(mimi, width)
        self._stepper = StepperStage(lm, width, TokenIds(), RULES)
        self._decoder = DecoderStage(mimi, width, lm.config.dep_q)
        for lane in self._lanes:
            for stage in (self._encoder, self._stepper, self._decoder):
                stage.open(lane, SamplingParams(seed=lane))

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        return self._encoder.encode(self._lanes, pcm)

    def step(self, codes: np.ndarray) -> np.ndarray | None:
        agent = [step.codes for step in self._stepper.step(self._lanes, codes)]
        return None if agent[0] is None else np.stack(agent)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self._decoder.decode(self._lanes, codes)

    def fill(self) -> bool:
        for stage in (self._encoder, self._stepper, self._decoder):
            state = stage._state
            positions = (state.kv_cache if isinstance(state, MimiState) else state).offsets
            positions[: len(self._lanes)] += 2 * self._context
        return True


class Ours:
    def __init__(self, job: dict[str, Any]) -> None:
        self.about = {
            "packet-voice": importlib.metadata.version("packet-voice"),
            "mlx": MACHINE.mlx_version,
            "device": MACHINE.device,
            "name": mx.device_info().get("device_name", ""),
        }
        self._lm = random_lm(job["lm_config"], job["weights"])
        self._mimi = random_mimi(job["mimi_config"], self._lm.config.mimi_codebooks)
        self._stages: OurStages | None = None

    def open(self, width: int) -> OurStages:
        self._stages = None
        mx.clear_cache()
        mx.reset_peak_memory()
        self._stages = OurStages(self._mimi, self._lm, width)
        return self._stages

    def memory_bytes(self) -> int:
        return mx.get_peak_memory()


class Device:
    """The rate at which the device reads and writes: the fastest of several passes over a large array."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.about = {"bytes_per_s": 0, "device": MACHINE.device}
        if MACHINE.device == "cpu" and not job["dry"]:
            return  # no rate is needed
        data = mx.zeros(job["bytes"] // 2, mx.bfloat16)
        mx.eval(data)
        times = []
        for _ in range(job["passes"]):
            began = time.perf_counter()
            data = data + 1
            mx.eval(data)
            times.append(time.perf_counter() - began)
        self.about["bytes_per_s"] = 2 * data.nbytes / min(times)


if __name__ == "__main__":
    drive(lambda job: (Device if "bytes" in job else Ours)(job))
