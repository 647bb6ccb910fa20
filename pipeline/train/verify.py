"""`python -m pipeline.train.verify`: check that the server computes what the trainer computed.

    python -m pipeline.train.verify --run build/train/run --config build/train/tiny

Codes must be the same but for ties, sound and logits within float32's rounding.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.config import read_config
from pipeline.errors import WeightsError
from pipeline.models.bundle import Bundle
from pipeline.models.lm import LmModel
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.system.command import run_command
from pipeline.units import FRAME_SAMPLES
from pipeline.values import GREEDY

GOLDEN: Final = "golden.npz"
_SAME_CODES: Final = 0.995  # the others are ties within float32's rounding
_SOUND: Final = 2e-3
_LOGITS: Final = 2e-2

Array = npt.NDArray[Any]
LANE: Final = 0


def compare_codec(stages: ModelStages, golden: dict[str, Array]) -> dict[str, float]:
    """The share of codes that are the same, and the largest difference of a sample."""
    encoder, decoder = stages.load_encoder(), stages.load_decoder()
    encoder.open(LANE, GREEDY)
    decoder.open(LANE, GREEDY)
    frames = golden["pcm"].reshape(-1, 1, FRAME_SAMPLES)
    codes = np.concatenate([encoder.encode([LANE], frame) for frame in frames])  # [T, K]
    expected = golden["codes"][: stages.bundle.lm.mimi_codebooks].T
    agent = expected[:, None, : stages.bundle.lm.dep_q]
    sound = np.concatenate([decoder.decode([LANE], frame)[0] for frame in agent])
    apart = np.abs(sound - golden["sound"]).max()
    return {"same_codes": float((codes == expected).mean()), "sound": float(apart)}


def compare_language(bundle: Bundle, golden: dict[str, Array]) -> dict[str, float]:
    """The largest differences of text and audio logits, over one whole session."""
    model = LmModel(bundle.lm)
    model.load_weights(bundle.lm_path)  # float32, also where a server would take fewer bits
    logits = model.logits(golden["session"])
    text = np.abs(np.array(logits.text)[0, 0] - golden["text_logits"]).max()
    apart = 0.0
    for codebook, delay in enumerate(bundle.lm.delays[1 : 1 + bundle.lm.dep_q]):
        served = np.array(logits.audio)[0, codebook]
        trained = golden["audio_logits"][delay:, codebook]  # by steps; served by frames
        apart = max(apart, float(np.abs(served[: len(trained)] - trained).max()))
    return {"text_logits": float(text), "audio_logits": apart}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.verify", description="Compare an export with what was trained."
    )
    parser.add_argument("--run", metavar="DIR", type=Path, required=True)
    parser.add_argument("--config", metavar="DIR", type=Path, required=True, help="the exported folder")
    arguments = parser.parse_args(argv)
    stages = open_stages(read_config(arguments.config, ["lanes.max=1"]))
    path = arguments.run / GOLDEN
    if not path.is_file():
        raise WeightsError(str(path), "missing: python -m pipeline.train.export makes it")
    with np.load(path) as file:
        golden = {name: file[name] for name in file.files}
    found = compare_codec(stages, golden) | compare_language(stages.bundle, golden)
    for name, value in found.items():
        print(f"{name:14} {value:.6f}")
    good = found["same_codes"] >= _SAME_CODES and found["sound"] <= _SOUND
    if not good or max(found["text_logits"], found["audio_logits"]) > _LOGITS:
        raise WeightsError(str(arguments.config), "the server computes something else of it than the trainer")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
