"""What a published size costs on a CPU in packed weights: memory and the time of a step, measured.

    PYTHONPATH=.:tests python tests/benchmarks/large_models.py [--model 2b] [--bits 4] [--steps 40]
    PYTHONPATH=.:tests python tests/benchmarks/large_models.py --model 7b

Makes a checkpoint with random weights of the architecture, packed as MLX packs them, one tensor at a time
(`--folder`, default `.peers/large`; kept for the next run). Then loads it as a server for one session does,
in a process of its own, writes every slot of the rings, and times steps.
Floor: the bytes of all weights that a step reads ÷ the memory bandwidth, measured beside the steps.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline import backend
from pipeline.config import read_config
from pipeline.diagnostics.microbenchmarks import read_bytes_per_s
from pipeline.models import random_init
from pipeline.models.checkpoint.formats import MOSHI_V0_1
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.checkpoint.safetensors_header import TensorHeader
from pipeline.models.checkpoint.writer import new_checkpoint
from pipeline.models.layers.quantized import Quantization
from pipeline.models.lm import LmModel
from pipeline.models.quantization import PUBLISHED_GROUPS, mlx_names
from pipeline.stages.model_stages import open_stages
from pipeline.system import resources
from pipeline.values import SamplingParams

HIBIKI_2B: dict[str, Any] = {
    **MOSHI_V0_1,
    "dim": 2560, "num_heads": 20, "num_layers": 24, "text_card": 48_000, "context": 500,
    "n_q": 32, "dep_q": 16, "delays": [0, *([0] + [2] * 15) * 2], "max_period": 100_000.0,
    "depformer_num_layers": 4, "depformer_dim_feedforward": 3072, "depformer_low_rank_embeddings": 128,
    "depformer_weights_per_step_schedule": [*range(8), *[8] * 8],
}  # fmt: skip
MODELS = {"2b": HIBIKI_2B, "7b": dict(MOSHI_V0_1)}
GIB = 2**30
EMBEDDINGS = ("emb.", "text_emb.", "depformer_emb.", "depformer_text_emb.")


def packable(how: Quantization, name: str, shape: tuple[int, ...]) -> bool:
    return how.divides(shape) and name.endswith(".weight") and not name.startswith("condition_provider")


def make(folder: Path, raw: dict[str, Any], bits: int) -> Path:
    """The config of a checkpoint of this architecture with random weights; made if it is missing."""
    lm, mimi = parse_lm_config(raw), parse_mimi_config({})
    folder.mkdir(parents=True, exist_ok=True)
    config, weights, codec = (
        folder / name for name in ("config.json", "model.safetensors", "mimi.safetensors")
    )
    config.write_text(json.dumps({**raw, "moshi_name": weights.name, "mimi_name": codec.name}))
    if not codec.exists():
        random_init.write_checkpoint(codec, random_init.mimi_tensors(mimi), 1)
    if not weights.exists():
        write(weights, lm, Quantization(bits, PUBLISHED_GROUPS[bits]))
    return config


def write(path: Path, lm: LmConfig, how: Quantization) -> None:
    """All parameters, packed where they can be; of each only its own numbers are in memory."""
    shapes = LmModel(lm).parameter_shapes()
    tensors = {}
    for name, shape in shapes.items():
        for stored in mlx_names(lm, name):
            stem = stored.removesuffix("weight")
            if packable(how, name, shape):
                tensors[stored] = TensorHeader("U32", how.packed_shape(shape))
                tensors[stem + "scales"] = tensors[stem + "biases"] = TensorHeader(
                    "BF16", how.scales_shape(shape)
                )
            else:
                tensors[stored] = TensorHeader("F32", shape)
    random = np.random.default_rng(1)
    steps = 2**how.bits - 1  # numbers are spread evenly over so many steps, which makes the deviation
    with new_checkpoint(path, tensors, {"format": "mlx"}) as file:
        for name, shape in shapes.items():
            if packable(how, name, shape):
                words = random.bytes(4 * int(np.prod(how.packed_shape(shape))))
                scale = np.float32(12**0.5 / steps / shape[1] ** 0.5)
                scales = np.full(how.scales_shape(shape), scale, np.float32)
                parts = {"scales": bfloat16(scales), "biases": bfloat16(-scales * (steps / 2))}
            else:
                words = np.ones(shape, np.float32).tobytes()  # norms
                parts = {}
            for stored in mlx_names(lm, name):
                file.put(stored, words)
                for part, data in parts.items():
                    file.put(stored.removesuffix("weight") + part, data)


def bfloat16(values: np.ndarray) -> bytes:
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def step_bytes(lm: LmConfig, how: Quantization) -> int:
    """The bytes of all weights but those of embeddings, of which a step reads one row each.

    A weight that several codebooks share is read for each of them.
    """
    total = 0
    for name, shape in LmModel(lm).parameter_shapes().items():
        if not name.startswith(EMBEDDINGS):
            uses = len(mlx_names(lm, name)) if name.startswith("depformer") else 1
            total += uses * (
                how.size_bytes(shape, 2) if packable(how, name, shape) else 4 * int(np.prod(shape))
            )
    return total


def memory() -> dict[str, float]:
    """Of this process, GiB: resident, its greatest so far, and without the pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in lines)
        if "kB" in rest
    }
    names = {"resident": "VmRSS", "most": "VmHWM", "own": "RssAnon"}
    return {ours: round(sizes[theirs] * 1024 / GIB, 2) for ours, theirs in names.items()}


def measure(config: Path, bits: int, steps: int) -> dict[str, Any]:
    """Load the language model for one session, fill its rings, and take steps."""
    import mlx.core as mx  # noqa: PLC0415 - after the BLAS

    lm = parse_lm_config(json.loads(config.read_text()))
    began = time.perf_counter()
    stages = open_stages(read_config(config, ["lanes.max=1"]))
    encoder, decoder = stages.load_encoder(), stages.load_decoder()
    codec_s = time.perf_counter() - began
    stepper = stages.load_stepper()
    load_s = time.perf_counter() - began - codec_s
    encoder.open(0, SamplingParams(seed=1))
    decoder.open(0, SamplingParams(seed=1))
    stepper.open(0, SamplingParams(seed=1))
    codes = np.random.default_rng(1).integers(0, lm.card, (64, lm.n_q - lm.dep_q)).astype(np.int32)
    times, bandwidths = [], []
    for step in range(steps + 3):
        if step % 10 == 0:
            bandwidths.append(read_bytes_per_s(resources.usable_cores()))
        before = time.perf_counter()
        stepper.step([0], codes[[step % 64]])
        times.append(time.perf_counter() - before)
    times = times[3:]
    state = stepper._state
    for ring in (*state.keys, *state.values):
        np.array(ring.view(mx.uint16), copy=False)[0] |= 0
    size = step_bytes(lm, Quantization(bits, PUBLISHED_GROUPS[bits]))
    return {
        "kernels": getattr(backend.kernels(), "instruction_set", "off"),
        "codec_load_s": round(codec_s, 2),
        "load_s": round(load_s, 2),
        "memory_gib": memory(),
        "step_ms": {"fastest": round(1000 * min(times), 1), "median": round(1000 * median(times), 1)},
        "read_gb_per_s": round(max(bandwidths) / 1e9, 1),
        "step_gb": round(size / 1e9, 3),
        "floor_ms": round(1000 * size / max(bandwidths), 1),
        "fastest_over_floor": round(min(times) * max(bandwidths) / size, 2),
        "median_over_floor": round(median(times) * max(bandwidths) / size, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="2b")
    parser.add_argument("--bits", type=int, choices=(4, 6, 8), default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path(".peers/large"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.bits, options.steps), indent=1))
        return
    config = make(options.folder / f"{options.model}-{options.bits}", MODELS[options.model], options.bits)
    command = [sys.executable, __file__, "--measure", str(config), "--bits", str(options.bits)]
    environment = {**backend.user_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, "--steps", str(options.steps)], check=True, env=environment)


if __name__ == "__main__":
    main()
