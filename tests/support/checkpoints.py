"""Small real checkpoints, made as the embedded default is: the whole architecture, few weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config

LM: Mapping[str, Any] = {
    "dim": 32,
    "num_heads": 2,
    "num_layers": 2,
    "n_q": 8,
    "dep_q": 4,
    "card": 32,
    "text_card": 40,
    "delays": [0, 0, 1, 1, 1, 0, 1, 1, 1],
    "context": 6,
    "hidden_scale": 4.125,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 16,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 66,
    "depformer_multi_linear": True,
    "depformer_weights_per_step": True,
    "depformer_pos_emb": "none",
}
MIMI: Mapping[str, Any] = {
    "seanet": {"dimension": 16, "n_filters": 2},
    "quantizer": {"dimension": 8, "n_q": 4, "bins": 32, "input_dimension": 16, "output_dimension": 16},
    "transformer": {
        "d_model": 16,
        "num_heads": 2,
        "num_layers": 1,
        "context": 10,
        "dim_feedforward": 32,
        "input_dimension": 16,
        "output_dimensions": [16],
    },
}


def write_folder(
    folder: Path, *, lm: Mapping[str, Any] = LM, settings: Mapping[str, Any] | None = None, seed: int = 1
) -> Path:
    """A whole checkpoint folder: config.json, the codec's config, two weight files."""
    config = {**lm, "moshi_name": "model.safetensors", "mimi_name": "mimi.safetensors"}
    config |= {"mimi_config_name": "mimi_config.json", "pipeline": dict(settings or {})}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mimi_config.json").write_text(json.dumps(MIMI))
    lm_tensors = random_init.lm_tensors(parse_lm_config(lm))
    mimi_tensors = random_init.mimi_tensors(parse_mimi_config(MIMI))
    random_init.write_checkpoint(folder / "model.safetensors", lm_tensors, seed)
    random_init.write_checkpoint(folder / "mimi.safetensors", mimi_tensors, seed)
    return folder
