"""Tokens equal those of the official PyTorch implementation, far beyond the ring's length.

The goldens are made by `tests/goldens/lm_goldens.py`.
"""

from pathlib import Path

import mlx.core as mx
import pytest
from support.models.golden_lm import DATA, agree, config_of
from support.models.lm_layouts import as_mlx, as_split


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_a_packed_checkpoint_gives_the_official_tokens(name: str) -> None:
    """From the packed PyTorch layout, greedy tokens are equal in every step."""
    folder = DATA / f"lm_golden_{name}"
    agree(folder, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_a_split_checkpoint_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    """The same weights in the split PyTorch layout are the same model."""
    folder = DATA / f"lm_golden_{name}"
    weights = mx.load(str(folder / "model.safetensors"))
    mx.save_safetensors(str(tmp_path / "split.safetensors"), as_split(weights, config_of(folder)))
    agree(folder, tmp_path / "split.safetensors")


def test_an_mlx_checkpoint_gives_the_same_tokens(tmp_path: Path) -> None:
    """The same weights in the MLX layout are the same model."""
    folder = DATA / "lm_golden_moshi"
    weights = mx.load(str(folder / "model.safetensors"))
    mx.save_safetensors(str(tmp_path / "mlx.safetensors"), as_mlx(weights, config_of(folder)))
    agree(folder, tmp_path / "mlx.safetensors")
