"""The server's encoder in place of the trainer's."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402 - after the skip

from pipeline.train.networks.architecture import mimi_sizes  # noqa: E402
from pipeline.train.networks.mimi import MimiNetwork  # noqa: E402
from pipeline.train.recordings.served import ServedEncoder  # noqa: E402
from pipeline.train.runs.checkpoints import RunError  # noqa: E402
from pipeline.units import FRAME_SAMPLES  # noqa: E402

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/tiny"


def test_the_server_encodes_as_the_trainer_does_and_nothing_else_is_taken_for_it():
    """A group of sessions, one after the other in the same lanes; another encoder is refused."""
    rng = np.random.default_rng(1)
    pcm = (rng.standard_normal((2, 20 * FRAME_SAMPLES)) * 0.05).astype(np.float32)
    model = MimiNetwork(mimi_sizes(ROOT / "pipeline/train/recipe"))
    model.load_published(load_file(TINY / "mimi.safetensors"))
    model.train(mode=False)
    expected = model.encode(torch.from_numpy(pcm)[:, None]).numpy().astype(np.int16)
    served = ServedEncoder(TINY, 2)
    served.encode(pcm[::-1])
    assert (served.encode(pcm) == expected).mean() > 0.99
    served.check(pcm[:1], expected[:1])
    with pytest.raises(RunError, match=r"only \d+% of its codes are those of the run"):
        served.check(pcm[:1], expected[1:])
