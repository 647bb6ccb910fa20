"""Cached transforms of weights follow the weights, and take no second copy of them."""

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
from pipeline.models.layers.linear import Linear, materialize
from pipeline.models.layers.norms import RmsNorm
from pipeline.models.lm import LmModel

FOLDER = Path(__file__).parents[2] / "data" / "lm_golden_moshi"


def operations(*results: mx.array) -> Counter[str]:
    """The operations that `results` still need, by name."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *results)
    return Counter(re.findall(r'\[label ="(\w+)"', graph.getvalue()))


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_uses_its_current_weights(bias: bool) -> None:
    """Replaced weights apply from the next call on, with the same bits as in MLX's own layer."""
    ours, theirs = Linear(6, 4, bias=bias), nn.Linear(6, 4, bias=bias)
    x = mx.random.normal((3, 6))
    for _ in range(2):
        weights = {name: mx.random.normal(p.shape) for name, p in theirs.parameters().items()}
        ours.update(weights)
        theirs.update(weights)
        for given in (x, x[None]):
            np.testing.assert_array_equal(np.array(ours(given)), np.array(theirs(given)))
    assert dict(tree_flatten(ours.parameters())).keys() == weights.keys()


def test_a_cached_transpose_takes_no_memory() -> None:
    """It is a view: it takes far less than the matrix."""
    layer = nn.Sequential(Linear(512, 512, bias=False))
    mx.eval(layer.parameters())
    before_bytes = mx.get_active_memory()
    materialize(layer)
    assert mx.get_active_memory() - before_bytes < 512 * 512
    assert not operations(layer.layers[0]._transposed(layer.layers[0].weight))


def test_a_step_of_one_lane_transposes_and_reshapes_nothing_around_a_product() -> None:
    """Its graph has no transposed weight, and no reshaping around a matrix product."""
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
        assert seen["Transpose"] <= attentions  # of the keys
        assert seen["Scatter"] == 0


@pytest.mark.parametrize("in_f32", [True, False])
def test_a_composed_rms_norm_equals_mlx(in_f32: bool) -> None:
    """Bit for bit, of one row and of several, also after the weights were replaced."""
    norm = RmsNorm(48, in_f32=in_f32)
    for rows in (1, 5):
        norm.alpha = mx.random.normal((48,))
        x = mx.random.normal((rows, 48)) * 3
        expected = mx.fast.rms_norm(x, norm.alpha, norm.eps)
        np.testing.assert_array_equal(np.array(norm(x)), np.array(expected))
