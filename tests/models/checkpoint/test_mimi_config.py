"""Mimi's configuration: sizes vary; whatever else differs from the architecture is refused by name."""

import json

import pytest
from support.models.golden_mimi import FOLDER

from pipeline.errors import ConfigError
from pipeline.models.checkpoint.mimi_config import MimiConfig, SeanetConfig, parse_mimi_config

FULL = json.loads((FOLDER / "mimi_config.json").read_text())


def test_the_default_config_is_the_published_mimi():
    """The defaults are the architecture that Kyutai publishes."""
    config = parse_mimi_config({})
    assert config == MimiConfig()
    assert config.seanet.ratios == (8, 6, 5, 4)
    assert (config.quantizer.n_q, config.quantizer.bins) == (32, 2048)
    assert (config.transformer.d_model, config.transformer.context) == (512, 250)
    assert config.frame_positions == 2


def test_sizes_are_read():
    """Every size that a file gives arrives."""
    config = parse_mimi_config(FULL)
    assert config.seanet == SeanetConfig(dimension=32, n_filters=2)
    assert (config.quantizer.dimension, config.quantizer.n_q, config.quantizer.bins) == (16, 6, 32)
    transformer = config.transformer
    assert (transformer.num_layers, transformer.num_heads, transformer.dim_feedforward) == (2, 4, 64)
    assert (transformer.context, transformer.layer_scale) == (8, 0.01)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_rate", 16000),
        ("channels", 2),
        ("frame_rate", 25),
        ("speed", 1),
        ("seanet", 5),
        ("seanet.causal", False),
        ("seanet.pad_mode", "reflect"),
        ("seanet.norm", "weight_norm"),
        ("seanet.true_skip", False),
        ("seanet.activation", "Snake"),
        ("seanet.activation_params", {"alpha": 0.5}),
        ("seanet.final_activation", "Tanh"),
        ("seanet.ratios", [7, 6, 5, 4]),
        ("seanet.ratios", [8, 8, 6, 5]),
        ("seanet.ratios", 960),
        ("seanet.n_filters", 0),
        ("seanet.n_filters", "2"),
        ("seanet.n_filters", True),
        ("seanet.compress", 3),
        ("quantizer.n_q", 1),
        ("quantizer.n_q_semantic", 2),
        ("quantizer.input_dimension", 64),
        ("quantizer.flavour", "new"),
        ("transformer.causal", False),
        ("transformer.gating", "silu"),
        ("transformer.norm", "rms_norm"),
        ("transformer.positional_embedding", "sin"),
        ("transformer.d_model", 64),
        ("transformer.output_dimensions", [32, 32]),
        ("transformer.num_heads", 5),
        ("transformer.num_heads", 32),
        ("transformer.context", 1),
        ("transformer.max_period", 0),
    ],
)
def test_what_this_codec_does_not_do_is_refused_by_name(key, value):
    """An unknown key, a wrong type and an unsupported value are each a `ConfigError` of that key."""
    raw = json.loads(json.dumps(FULL))
    section, _, last = key.rpartition(".")
    (raw[section] if section else raw)[last] = value
    with pytest.raises(ConfigError) as raised:
        parse_mimi_config(raw)
    assert raised.value.key == key


def test_shorter_hops_put_more_positions_into_a_frame():
    """The transformers run at whatever whole multiple of the frame rate the ratios leave."""
    config = parse_mimi_config({**FULL, "seanet": {**FULL["seanet"], "ratios": [8, 5, 4, 2]}})
    assert config.frame_positions == 6


def test_training_knobs_are_known():
    """Keys that matter only in training are accepted and change nothing."""
    raw = {**FULL, "quantizer": {**FULL["quantizer"], "q_dropout": True, "decay": 0.9}}
    assert parse_mimi_config(raw) == parse_mimi_config(FULL)
