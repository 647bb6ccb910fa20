"""What one rank does in `test_two_ranks`: a scenario of a stepper, and a whole sequence at once.

`python one_rank.py FOLDER OUT`, as `mlx.launch` would start it: rank 0 plays the scenario and writes
`OUT`; alone, the one process there is does. Each prints what it holds, as JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backend
from pipeline.cli.ranks import join_ranks
from pipeline.config import read_config
from pipeline.models import lm  # before MLX, so that the backend is chosen
from pipeline.models.sharding import ShardRank
from pipeline.stages.model_stages import open_stages
from pipeline.stages.stepper import StepperStage
from pipeline.stages.tensor_parallel.collective import Coordinator
from pipeline.values import GREEDY, SamplingParams

import mlx.core as mx  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

LANES = 3
DRAWN = SamplingParams(seed=5, top_k=9, text_top_k=7)
SHAPED = SamplingParams(
    seed=6, temperature=0.0, repetition_penalty=1.5, repetition_window=3, padding_bias=0.5
)


def play(stepper: StepperStage, config: lm.LmConfig) -> dict[str, np.ndarray]:
    """Three lanes, opened, configured, closed and opened again, in batches of one to three."""
    generator = np.random.Generator(np.random.PCG64(3))
    tokens: dict[str, list[list[int]]] = {}
    names: dict[int, str] = {}

    def opened(lane: int, name: str, sampling: SamplingParams) -> None:
        stepper.open(lane, sampling)
        names[lane] = name

    def step(*lanes: int) -> None:
        codes = generator.integers(0, config.card, (len(lanes), config.n_q - config.dep_q), np.int32)
        for lane, done in zip(lanes, stepper.step(lanes, codes), strict=True):
            frame = [-1] * config.dep_q if done.codes is None else done.codes.tolist()
            tokens.setdefault(names[lane], []).append([done.token, *frame])

    opened(0, "greedy", GREEDY)
    opened(2, "drawn", DRAWN)
    step(0)
    for _ in range(3):
        step(2, 0)
    opened(1, "shaped", SHAPED)
    for _ in range(2):
        step(0, 1, 2)
    stepper.configure(2, SHAPED)
    stepper.close(0)
    opened(0, "again", DRAWN)
    for _ in range(3):
        step(1, 0, 2)
    stepper.configure(1, GREEDY)
    for _ in range(2):
        step(1, 2)
    return {name: np.array(rows) for name, rows in tokens.items()}


def sequence(config: lm.LmConfig) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(4))
    return generator.integers(0, config.card, (2, 1 + config.n_q, 7), np.int32)


def held(model: lm.LmModel) -> dict[str, int]:
    """Bytes of weights and of one row's rings, and the most there was while they were loaded."""
    rings = model.state(1)
    return {
        "weights": sum(p.nbytes for _, p in tree_flatten(model.parameters())),
        "rings": sum(ring.nbytes for ring in (*rings.keys, *rings.values)),
    }


def exchanged(model: lm.LmModel) -> dict[str, int]:
    """How often a step of one row asks for an exchange, and the bytes that this rank hands over."""
    sizes: list[int] = []
    gather = mx.distributed.all_gather

    def counted(mine: mx.array, **group: Any) -> mx.array:
        sizes.append(mine.nbytes)
        return gather(mine, **group)

    mx.distributed.all_gather = counted
    text, audio = np.zeros((1, 1), np.int32), np.zeros((1, model.config.n_q, 1), np.int32)
    token, codes, _ = model.step(text, audio, model.state(1), np.zeros(1, np.int32))
    mx.eval(token, codes)
    mx.distributed.all_gather = gather
    return {"exchanges": len(sizes), "sent": sum(sizes)}


def main(folder: str, out: str) -> None:
    ranks = backend.launched_ranks()
    config = read_config(Path(folder), [f"lanes.max={LANES}", "stall_s=20"])
    stages = open_stages(config, ranks)
    collective = join_ranks(stages, config.settings) if ranks.size > 1 else None
    before_bytes = mx.get_active_memory()
    mx.reset_peak_memory()
    model = stages.bundle.load_lm(collective and ShardRank(stages.shard, collective.group))
    print(json.dumps(held(model) | {"peak": mx.get_peak_memory() - before_bytes}), flush=True)
    print(json.dumps(exchanged(model)), flush=True)
    whole = model.logits(sequence(stages.bundle.lm))
    mx.eval(whole.text, whole.audio)
    if ranks.rank > 0:
        code = stages.follower(collective).run()
        print(json.dumps({"ended": code}), flush=True)
        return
    coordinator = collective and Coordinator(collective)  # sends heartbeats from here on
    tokens = play(stages.load_stepper(coordinator), stages.bundle.lm)
    np.savez(out, text=np.array(whole.text), audio=np.array(whole.audio), **tokens)
    if coordinator is not None:
        coordinator.end(7)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # as the command does: MLX may not be taken apart while its threads run
