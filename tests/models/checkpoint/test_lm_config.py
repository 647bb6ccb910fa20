"""Every key of a config.json is used, or refused by name."""

import json
import math
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.lm import LmModel

CONFIGS = Path(__file__).parents[3] / "configs"
MOSHI = json.loads((CONFIGS / "moshi_7b_202409.json").read_text())


def test_sizes_are_derived_as_published() -> None:
    """Moshi 7B: 7.69 billion parameters, gated to 11264, heads of 128, one step of delay."""
    config = parse_lm_config(MOSHI)
    assert config.max_delay == 1
    assert config.mimi_codebooks == 8
    assert config.text_vocabulary == 32_000
    assert config.transformer.head_dim == 128
    assert config.transformer.dim_feedforward == 16_896
    assert config.depformer.context == 8
    shapes = LmModel(config).parameter_shapes()
    assert sum(math.prod(shape) for shape in shapes.values()) == 7_687_729_152
    assert shapes["transformer.layers.31.gating.0.linear_in.weight"] == (2 * 11264, 4096)
    assert shapes["depformer.layers.5.gating.7.linear_out.weight"] == (1024, 2816)


def test_keys_about_other_things_are_accepted() -> None:
    """File names, sampling and features that are off do not concern the language model."""
    others = {
        "moshi_name": "model.safetensors",
        "mimi_name": "m.safetensors",
        "mimi_config_name": None,
        "tokenizer_name": "t.model",
        "model_type": "moshi",
        "model_id": {"sig": "x", "epoch": 1},
        "lm_gen_config": {"temp": 0.8},
        "tts_config": {},
        "stt_config": {},
        "lora": False,
        "lora_rank": 128,
        "lora_scaling": 2.0,
        "lora_name": None,
        "quantize": False,
        "conditioners": {},
        "fuser": {"cross_attention_pos_emb": False, "sum": [], "prepend": [], "cross": []},
        "cross_attention": False,
        "demux_second_stream": False,
        "extra_heads_num_heads": 0,
        "pipeline": {},
    }
    assert parse_lm_config(MOSHI | others) == parse_lm_config(MOSHI)


def test_only_half_of_what_personaplex_predicts_is_needed() -> None:
    """The user's voice is input, not predicted, so the depformer stops after the agent's."""
    config = parse_lm_config(MOSHI | {"model_type": "personaplex", "dep_q": 16})
    assert (config.dep_q, config.unused_slices, config.mimi_codebooks) == (8, 8, 8)
    assert config.depformer.context == len(config.weight_sets) == 8
    with pytest.raises(ConfigError, match="weights_per_step_schedule: 16 given"):
        parse_lm_config(
            MOSHI
            | {"model_type": "personaplex", "dep_q": 16, "depformer_weights_per_step_schedule": [0] * 16}
        )


def test_hibiki_takes_the_end_of_its_text_as_padding() -> None:
    """So that it continues as long as the user does; other models take their own token."""
    assert parse_lm_config(MOSHI | {"model_type": "hibiki"}).replaced_text_token == (2, 3)
    assert parse_lm_config(MOSHI).replaced_text_token is None


def test_null_is_a_keys_default() -> None:
    """As trainers write it; an absent depformer key is what the transformer has."""
    raw = {key: value for key, value in MOSHI.items() if not key.startswith("depformer_")} | {
        "depformer_num_heads": 16,
        "depformer_dim": None,
        "depformer_dim_feedforward": None,
        "kv_repeat": None,
        "layer_scale": 0.1,
    }
    config = parse_lm_config(raw)
    assert config.depformer.d_model == 256
    assert config.depformer.dim_feedforward == int(4.125 * 256)
    assert config.depformer.num_layers == 32
    assert config.depformer.layer_scale == 0.1
    assert config.depformer.gating == "silu"
    assert parse_lm_config(raw | {"depformer_layer_scale": None}).depformer.layer_scale is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("surprise", 1),
        ("dim", "4096"),
        ("dim", 0),
        ("n_q", 1.5),
        ("causal", False),
        ("causal", 1),
        ("depformer_causal", False),
        ("cross_attention", True),
        ("model_type", 7),
        ("demux_second_stream", True),
        ("demux_second_text_stream", True),
        ("extra_heads_num_heads", 4),
        ("quantize", True),
        ("gating", "mish"),
        ("norm", "batch_norm"),
        ("positional_embedding", "alibi"),
        ("delays", [0, 1]),
        ("delays", [0, -1] + [1] * 15),
        ("dep_q", 0),
        ("dep_q", 17),
        ("num_heads", 33),
        ("num_heads", None),
        ("kv_repeat", 3),
        ("text_card_out", 40_000),
        ("existing_text_padding_id", 32_000),
        ("existing_text_end_padding_id", 32_000),
        ("unused_slices", 1),
        ("summed", ["description"]),
        ("depformer_gating", "none"),
        ("depformer_weights_per_step_schedule", [0, 1]),
        ("depformer_dim_feedforward", [1024, 1024]),
        ("depformer_num_heads", 1024),
    ],
)
def test_an_invalid_key_is_refused_by_name(key: str, value: object) -> None:
    """Unknown, mistyped, contradictory or unsupported: the key is in the error, and the exit code is 2."""
    raw = MOSHI | {key: value}
    if key == "depformer_num_heads":
        raw["depformer_pos_emb"] = "rope"  # one channel per head has no pair to rotate
    if key == "depformer_gating":
        key = "depformer_weights_per_step"  # the two contradict each other
    with pytest.raises(ConfigError) as caught:
        parse_lm_config(raw)
    assert caught.value.key.split("[")[0] == key
    assert caught.value.exit_code == 2


def test_a_schedule_without_sets_of_weights_is_refused() -> None:
    """The schedule chooses between per-step weights; without them it means nothing."""
    raw = MOSHI | {"depformer_weights_per_step": False, "depformer_weights_per_step_schedule": [0] * 8}
    with pytest.raises(ConfigError) as caught:
        parse_lm_config(raw)
    assert caught.value.key == "depformer_weights_per_step_schedule"
