"""The official PyTorch implementation's tokens are ours, far beyond the ring's length.

The goldens are made by `tests/oracle/lm_goldens.py`.
"""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from lm_layouts import as_mlx, as_split

from pipeline.models.lm import LmModel
from pipeline.models.lm_config import parse_lm_config
from pipeline.stages.grid import GridShape, TokenGrid

DATA = Path(__file__).parent.parent / "data"


def agree(folder: Path, checkpoint: Path) -> None:
    """Step through the golden's user codes, and compare every token of every step."""
    config = parse_lm_config(json.loads((folder / "config.json").read_text()))
    golden = np.load(folder / "trace.npz")
    steps = len(golden["user"])
    assert steps >= 5 * config.context
    model = LmModel(config)
    model.load_weights(checkpoint)
    grid = TokenGrid(GridShape(config.delays, config.dep_q, config.text_card, config.card), 1)
    state = model.state(1)
    lanes = np.zeros(1, np.int32)
    out = []
    for step, user in enumerate(golden["user"]):
        given = grid.inputs(lanes, user[None].astype(np.int32))
        text, audio, state = model.step(given[:, :1], given[:, 1:, None], state, lanes)
        drawn = np.array(text), np.array(audio)
        assert int(drawn[0][0]) == int(golden["text"][step]), f"text of step {step}"
        np.testing.assert_array_equal(drawn[1][0], golden["audio"][step], f"audio of step {step}")
        out += [codes for codes in grid.advance(lanes, *drawn) if codes is not None]
    np.testing.assert_array_equal(out, golden["out"][:, 1:])


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_packed_checkpoint_says_what_the_official_model_says(name: str) -> None:
    """From the packed PyTorch layout, greedy tokens are equal in every step."""
    folder = DATA / f"lm_golden_{name}"
    agree(folder, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_split_checkpoint_says_the_same(name: str, tmp_path: Path) -> None:
    """The same weights in the split PyTorch layout are the same model."""
    folder = DATA / f"lm_golden_{name}"
    weights = mx.load(str(folder / "model.safetensors"))
    config = parse_lm_config(json.loads((folder / "config.json").read_text()))
    mx.save_safetensors(str(tmp_path / "split.safetensors"), as_split(weights, config))
    agree(folder, tmp_path / "split.safetensors")


def test_mlx_checkpoint_says_the_same(tmp_path: Path) -> None:
    """The same weights in the MLX layout are the same model."""
    folder = DATA / "lm_golden_moshi"
    weights = mx.load(str(folder / "model.safetensors"))
    config = parse_lm_config(json.loads((folder / "config.json").read_text()))
    mx.save_safetensors(str(tmp_path / "mlx.safetensors"), as_mlx(weights, config))
    agree(folder, tmp_path / "mlx.safetensors")
