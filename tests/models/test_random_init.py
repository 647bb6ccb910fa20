"""Weights from a seed: ordinary checkpoints, the same everywhere, whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.checkpoints import LM, MIMI

from pipeline.install import paths
from pipeline.models import random_init
from pipeline.models.bundle import _weights
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.lm import LmModel
from pipeline.models.mimi import Mimi

VARIANTS: dict[str, dict[str, Any]] = {
    "moshi": {},
    "schedule and low rank": {
        "depformer_weights_per_step_schedule": [0, 1, 1, 1],
        "depformer_low_rank_embeddings": 8,
    },
    "plain feed-forward and layer norm": {"gating": "none", "norm": "layer_norm", "depformer_gating": "silu"},
    "grouped keys and depformer norm": {
        "kv_repeat": 2,
        "depformer_kv_repeat": 1,
        "depformer_norm": "layer_norm",
    },
    "layer scale": {"layer_scale": 0.1},
    "a feed-forward per codebook": {"depformer_dim_feedforward": [66, 48, 48, 96]},
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_language_model_from_a_seed_loads_strictly(tmp_path: Path, change: dict[str, Any]) -> None:
    config = parse_lm_config({**LM, **change})
    path = tmp_path / "model.safetensors"
    random_init.write_checkpoint(path, random_init.lm_tensors(config), seed=3)
    LmModel(config).load_weights(path)


def test_a_codec_from_a_seed_loads_strictly(tmp_path: Path) -> None:
    config = parse_mimi_config(MIMI)
    path = tmp_path / "mimi.safetensors"
    random_init.write_checkpoint(path, random_init.mimi_tensors(config), seed=3)
    Mimi(config, 4).load_weights(path)


def test_a_seed_means_the_same_bytes_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "mimi.safetensors"
    digests = []
    for seed in (1, 1, 2):
        random_init.write_checkpoint(path, random_init.mimi_tensors(parse_mimi_config(MIMI)), seed)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    # Of these bytes; when it changes, so must random_init.VERSION.
    assert digests[0].startswith("e1bc5be13a6c5909")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "a.weight", (4, 4)
        yield "b.weight", (-1,)

    with pytest.raises(ValueError, match="negative"):
        random_init.write_checkpoint(tmp_path / "model.safetensors", tensors(), seed=1)
    assert list(tmp_path.iterdir()) == []


def test_kept_weights_that_were_cut_short_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a loss of power; whole ones are made once."""
    monkeypatch.setattr(paths, "cache_folder", lambda: tmp_path / "cache")
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        save_file({"a": np.zeros(100, np.float32)}, path)

    def kept() -> Path:
        path, is_trained = _weights(tmp_path, "model.safetensors", 1, make, "key")
        assert not is_trained
        return path

    path = kept()
    assert (kept(), len(made)) == (path, 1)
    os.truncate(path, path.stat().st_size - 10)
    assert (list(read_header(kept())), len(made)) == (["a"], 2)
