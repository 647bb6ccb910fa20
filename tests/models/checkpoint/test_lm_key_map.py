"""All three layouts fill the same model, and every tensor of each is accounted for."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.models.lm_layouts import as_mlx, as_split

from pipeline.errors import TensorMismatchError, WeightsError
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.lm_key_map import Layout, detect_layout, lm_rules
from pipeline.models.checkpoint.loading import match
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.lm import LmModel

FOLDER = Path(__file__).parents[2] / "data" / "lm_golden_moshi"
# Codebooks 1 and 2 share their weights; narrow embeddings.
SHARED = {
    "depformer_weights_per_step_schedule": [0, 1, 1, 2],
    "depformer_low_rank_embeddings": 6,
    "dim": 16,
    "depformer_dim": 8,
    "depformer_dim_feedforward": 16,
    "num_layers": 1,
}


def config(changes: dict | None = None) -> LmConfig:
    return parse_lm_config(json.loads((FOLDER / "config.json").read_text()) | (changes or {}))


def weights(layout: Layout) -> dict[str, mx.array]:
    packed = mx.load(str(FOLDER / "model.safetensors"))
    if layout == "packed":
        return packed
    return (as_split if layout == "split" else as_mlx)(packed, config())


def parameters(model: LmModel) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


@pytest.mark.parametrize("layout", ["packed", "split", "mlx"])
def test_layouts_are_recognised(layout: Layout, tmp_path: Path) -> None:
    """By the names alone; then a header that fits is enough to know that the file will load."""
    assert detect_layout(weights(layout)) == layout
    mx.save_safetensors(str(tmp_path / "w.safetensors"), weights(layout))
    LmModel(config()).check_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("layout", ["split", "mlx"])
def test_layouts_fill_the_same_parameters(layout: Layout, tmp_path: Path) -> None:
    """Bit for bit what the packed file gives."""
    reference, model = LmModel(config()), LmModel(config())
    reference.load_weights(FOLDER / "model.safetensors")
    mx.save_safetensors(str(tmp_path / "w.safetensors"), weights(layout))
    model.load_weights(tmp_path / "w.safetensors")
    expected = parameters(reference)
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, expected[name], name)


def test_shared_weights_are_read_once_and_compared(tmp_path: Path) -> None:
    """In the MLX layout, codebooks on one schedule entry carry copies: equal ones load, others do not."""
    shared = config(SHARED)
    original, model = LmModel(shared), LmModel(shared)
    # A model's own parameters are the split layout, up to the official shape of norms.
    split = {
        name.replace(".gating.0.", ".gating.") if name.startswith("transformer") else name: value
        for name, value in tree_flatten(original.parameters())
    }
    mlx = as_mlx(split, shared)
    mx.save_safetensors(str(tmp_path / "w.safetensors"), mlx)
    model.load_weights(tmp_path / "w.safetensors")
    expected = parameters(original)
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, expected[name], name)
    copy = "depformer.slices.2.transformer.layers.0.gating.linear_in.weight"
    mlx[copy] = mlx[copy] + 1
    mx.save_safetensors(str(tmp_path / "w.safetensors"), mlx)
    with pytest.raises(WeightsError, match=r"slices\.2.* differs"):
        model.load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("layout", ["packed", "split", "mlx"])
def test_every_dropped_or_reshaped_tensor_is_named(layout: Layout, tmp_path: Path) -> None:
    """Without one tensor, or with one of another shape, the error names it or what it becomes."""
    path = tmp_path / "w.safetensors"
    mx.save_safetensors(str(path), weights(layout))
    header = read_header(path)
    shapes = LmModel(config()).parameter_shapes()
    rules = lm_rules(config(), layout)
    for name, entry in header.items():
        becomes = next((t for t in (rule.targets(name) for rule in rules) if t is not None), [name])
        with pytest.raises(WeightsError) as lost:
            match(path, {other: e for other, e in header.items() if other != name}, shapes, rules)
        if isinstance(lost.value, TensorMismatchError):
            assert set(lost.value.missing) == set(becomes)
            assert not lost.value.extra
        else:  # one of several copies
            assert layout == "mlx"
            assert lost.value.problem.endswith(name)
        wrong = (*entry.shape[:-1], entry.shape[-1] + 1)
        with pytest.raises(TensorMismatchError) as caught:
            match(path, header | {name: type(entry)(entry.dtype, wrong)}, shapes, rules)
        assert caught.value.misshaped == ((name, entry.shape, wrong),)


@pytest.mark.parametrize("layout", ["packed", "split", "mlx"])
@pytest.mark.parametrize("stray", ["emb.99.weight", "condition_provider.x", "linears.0.scales"])
def test_every_added_tensor_is_named(layout: Layout, stray: str, tmp_path: Path) -> None:
    """A tensor without a parameter is refused, not dropped."""
    path = tmp_path / "w.safetensors"
    mx.save_safetensors(str(path), weights(layout) | {stray: mx.zeros((2, 2))})
    model = LmModel(config())
    before = parameters(model)
    with pytest.raises(TensorMismatchError, match=stray):
        model.check_weights(path)
    with pytest.raises(TensorMismatchError) as caught:
        model.load_weights(path)
    assert caught.value.extra == (stray,)
    assert not caught.value.missing
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_size_that_differs_from_the_config_is_shown_with_both_shapes() -> None:
    """Expected from the config, found in the file."""
    with pytest.raises(
        TensorMismatchError, match=r"text_emb.weight \(expected \[52, 48\], found \[41, 48\]\)"
    ):
        LmModel(config({"text_card": 51, "text_card_out": 40})).load_weights(FOLDER / "model.safetensors")


def test_a_file_of_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Without listing every tensor of both."""
    mx.save_safetensors(str(tmp_path / "w.safetensors"), {"encoder.model.0.weight": mx.zeros(3)})
    with pytest.raises(WeightsError, match="not a Moshi language model"):
        LmModel(config()).load_weights(tmp_path / "w.safetensors")
