"""What a prompt costs: in slices as the server computes it, frame by frame, and once it is kept.

    PYTHONPATH=. python tests/benchmarks/prompt_cost.py [--rounds 4]

The model has PersonaPlex's structure, a quarter of its layers and random weights.
"""

import argparse
import statistics
import time

import numpy as np

from actors.sessions.prompting import SliceSize
from pipeline.models.checkpoint.formats import PERSONAPLEX
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.lm import LmModel
from pipeline.stages.stepper import StepperStage
from pipeline.stages.text import TokenIds, UtteranceRules
from pipeline.values import GREEDY, Prompt, Voice

SIZES = {
    "dim": 768,
    "num_heads": 12,
    "num_layers": 8,
    "context": 1000,
    "text_card": 4000,
    "depformer_dim": 384,
    "depformer_num_heads": 6,
    "depformer_num_layers": 4,
    "depformer_dim_feedforward": 1584,
}
VOICE_FRAMES, ROLE_TOKENS = 60, 70


def round_of(stage: StepperStage, number: int) -> tuple[float, float, float]:
    """Seconds for a prompt's frames as steps, for the prompt in slices, and to begin with it again."""
    rng = np.random.default_rng(number)
    voice = Voice(codes=rng.integers(0, 2048, (VOICE_FRAMES, 8)).astype(np.int32))
    prompt = Prompt(str(number), voice, tuple(rng.integers(4, 4000, ROLE_TOKENS).tolist()))
    stage.open(0, GREEDY)
    began = time.perf_counter()
    for frame in rng.integers(0, 2048, (VOICE_FRAMES + ROLE_TOKENS + 12, 8)).astype(np.int32):
        stage.step([0], frame[None])
    stepping = time.perf_counter() - began
    stage.open(0, GREEDY)
    size, complete, slices = SliceSize(), False, 0.0
    while not complete:
        began = time.perf_counter()
        complete = stage.advance_prompt(0, prompt, size.positions)
        taken = time.perf_counter() - began
        slices += taken
        size.record(taken)
    stage.begin(0, prompt)
    stage.open(0, GREEDY)
    began = time.perf_counter()
    stage.begin(0, prompt)
    return stepping, slices, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    model = LmModel(parse_lm_config({**PERSONAPLEX, **SIZES}))
    stage = StepperStage(model, 2, TokenIds(), UtteranceRules(frozenset({0, 3}), 13, 750))
    found = [round_of(stage, number) for number in range(rounds)]
    print(f"prompting / stepping: {statistics.median(slices / steps for steps, slices, _ in found):.3f}")
    print(
        f"a step: {1000 * statistics.median(f[0] for f in found) / (VOICE_FRAMES + ROLE_TOKENS + 12):.1f} ms"
    )
    print(f"kept prompt: {1000 * statistics.median(f[2] for f in found):.1f} ms")


if __name__ == "__main__":
    main()
