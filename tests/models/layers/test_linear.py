"""What a layer makes of its weights once is of those weights, and costs no second copy of them."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.layers.linear import Linear, settle
from pipeline.models.layers.norms import RmsNorm
from pipeline.models.lm import LmModel

FOLDER = Path(__file__).parents[2] / "data" / "lm_golden_moshi"


def operations(*results: mx.array) -> Counter[str]:
    """What is yet to be computed for them, by name."""
    drawn = io.StringIO()
    mx.export_to_dot(drawn, *results)
    return Counter(re.findall(r'\[label ="(\w+)"', drawn.getvalue()))


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_that_of_the_weights_it_has_now(bias: bool) -> None:
    """Replaced weights are used from the next call on, to the bit as MLX's own layer uses them."""
    ours, theirs = Linear(6, 4, bias=bias), nn.Linear(6, 4, bias=bias)
    x = mx.random.normal((3, 6))
    for _ in range(2):
        weights = {name: mx.random.normal(p.shape) for name, p in theirs.parameters().items()}
        ours.update(weights)
        theirs.update(weights)
        for given in (x, x[None]):
            np.testing.assert_array_equal(np.array(ours(given)), np.array(theirs(given)))
    assert dict(tree_flatten(ours.parameters())).keys() == weights.keys()


def test_the_other_side_of_a_weight_costs_no_memory() -> None:
    """Turned over, it is a view: what it takes is far less than the matrix."""
    layer = nn.Sequential(Linear(512, 512, bias=False))
    mx.eval(layer.parameters())
    before_bytes = mx.get_active_memory()
    settle(layer)
    assert mx.get_active_memory() - before_bytes < 512 * 512
    assert not operations(layer.layers[0]._turned(layer.layers[0].weight))


def test_a_step_folds_and_turns_nothing_around_a_product() -> None:
    """Of one lane: no weight is turned over, and no axis of one laid around a matrix, in any step."""
    model = LmModel(parse_lm_config(json.loads((FOLDER / "config.json").read_text())))
    model.load_weights(FOLDER / "model.safetensors")
    c, state, lanes = model.config, model.state(1), np.zeros(1, np.int32)
    attentions = c.transformer.num_layers + c.depformer.num_layers * (c.dep_q - 1)
    for _ in range(2):
        text, audio, state = model.step(
            np.zeros((1, 1), np.int32), np.zeros((1, c.n_q, 1), np.int32), state, lanes
        )
        seen = operations(text, audio)
        mx.eval(text, audio)
        assert seen["Flatten"] == seen["Unflatten"] == 0
        assert seen["Transpose"] <= attentions  # each of its keys
        assert seen["Scatter"] == 0


@pytest.mark.parametrize("in_f32", [True, False])
def test_a_norm_by_hand_is_the_norm(in_f32: bool) -> None:
    """The same bits as MLX's own operation, of one row and of several, and of weights that were replaced."""
    norm = RmsNorm(48, in_f32=in_f32)
    for rows in (1, 5):
        norm.alpha = mx.random.normal((48,))
        x = mx.random.normal((rows, 48)) * 3
        expected = mx.fast.rms_norm(x, norm.alpha, norm.eps)
        np.testing.assert_array_equal(np.array(norm(x)), np.array(expected))
