"""The sum of a model's conditions is one constant vector, computed as in the official package."""

import hashlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.models.golden_lm import DATA, config_of

from pipeline.errors import ConfigError
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.layers.conditioning import ConditionProvider, LutConfig, parse_conditioners, parse_fuser
from pipeline.models.lm import LmModel

LUT = {"n_bins": 31, "dim": 16, "tokenizer": "noop", "possible_values": ["very_bad", "good", "very_good"]}
GIVEN = {"description": {"type": "lut", "lut": LUT}}


def test_without_a_model_type_the_default_is_very_good() -> None:
    """The published 2B architecture names conditions and no model type."""
    raw = json.loads((Path(__file__).parents[3] / "configs/moshi_mlx_2b.json").read_text())
    config = parse_lm_config(raw)
    assert config.summed == ("description",)
    assert config.conditioners["description"].row("very_good") == 4
    shapes = LmModel(parse_lm_config({**raw, "dim": 40, "num_heads": 2, "num_layers": 1})).parameter_shapes()
    prefix = "condition_provider.conditioners.description."
    assert {name: shape for name, shape in shapes.items() if name.startswith(prefix)} == {
        prefix + "embed.weight": (32, 16),
        prefix + "output_proj.weight": (40, 16),
        prefix + "learnt_padding": (1, 1, 40),
    }


def test_a_value_is_a_projected_row_and_no_value_a_learnt_vector() -> None:
    """The default is very_good; the null condition is very_bad if the table has it, else no value."""
    conditions = ConditionProvider(parse_conditioners(GIVEN), ("description",), 24)
    lookup = conditions.conditioners["description"]
    lookup.learnt_padding = mx.random.normal((1, 1, 24))
    table, projection = np.array(lookup.embed.weight), np.array(lookup.output_proj.weight)
    np.testing.assert_allclose(np.array(conditions.condition())[0, 0], projection @ table[2], atol=1e-6)
    np.testing.assert_allclose(np.array(conditions.null_condition())[0, 0], projection @ table[0], atol=1e-6)
    lookup.config = LutConfig(n_bins=31, dim=16, possible_values=("good", "very_good"))
    np.testing.assert_array_equal(conditions.null_condition(), lookup.learnt_padding)
    lookup.config = LutConfig(n_bins=31, dim=16, possible_values=("very_good",), learn_padding=False)
    np.testing.assert_array_equal(conditions.null_condition(), np.zeros((1, 1, 24)))


def test_without_a_list_of_values_a_row_is_a_hash() -> None:
    config = LutConfig(n_bins=31, dim=16)
    digest = int(hashlib.sha256(b"very_good").hexdigest(), 16)
    assert config.row("very_good") == digest % 31
    assert config.accepts("anything")


def test_conditions_are_kept_as_the_constant_they_are() -> None:
    """One vector without guidance and two with it, of the weights that were loaded."""
    folder = DATA / "families/hibiki_1b"
    for cfg_coef, count in ((1.0, 1), (2.0, 2)):
        model = LmModel(config_of(folder), cfg_coef)
        model.load_weights(folder / "model.safetensors")
        assert len(model._conditions) == count
        np.testing.assert_array_equal(model._conditions[0], model.condition_provider.condition())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"conditioners": []}, "conditioners"),
        ({"conditioners": {"description": {"type": "wav"}}}, "conditioners.description.type"),
        ({"conditioners": {"description": "lut"}}, "conditioners.description.type"),
        ({"conditioners": {"description": {"type": "lut"}}}, "conditioners.description.lut"),
        (
            {"conditioners": {"description": {"type": "lut", "lut": {**LUT, "dim": "16"}}}},
            "conditioners.description.lut",
        ),
        (
            {"conditioners": {"description": {"type": "lut", "lut": {**LUT, "x": 1}}}},
            "conditioners.description.lut",
        ),
        (
            {"conditioners": {"description": {"type": "lut", "lut": {**LUT, "n_bins": 2}}}},
            "conditioners.description.lut.possible_values",
        ),
        ({"conditioners": {"mood": {"type": "lut", "lut": LUT}}}, "conditioners.mood"),
        (
            {"conditioners": {"description": {"type": "lut", "lut": {**LUT, "possible_values": ["bad"]}}}},
            "conditioners.description",
        ),
        ({"fuser": ["description"]}, "fuser"),
        ({"fuser": {"sum": ["mood"]}}, "fuser.sum"),
        ({"fuser": {"cross": ["description"]}}, "fuser.cross"),
        ({"fuser": {"prepend": ["description"]}}, "fuser.prepend"),
        ({"fuser": {"product": []}}, "fuser.product"),
    ],
)
def test_an_invalid_key_is_refused_by_name(change: dict, key: str) -> None:
    raw = {"conditioners": GIVEN, "fuser": {"sum": ["description"]}, **change}
    with pytest.raises(ConfigError) as caught:
        parse_fuser(raw["fuser"], parse_conditioners(raw["conditioners"]))
    assert caught.value.key == key
