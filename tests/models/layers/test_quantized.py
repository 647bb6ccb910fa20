"""Quantized checkpoints: recognised by shapes, equal to MLX's quantization, close to dense ones."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import LM

from pipeline.errors import TensorMismatchError, WeightsError
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.loading import Rule, load_parameters, match, stream_parameters
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.layers.embedding import Embedding
from pipeline.models.layers.quantized import (
    BITS,
    GROUPS,
    Quantization,
    Quantized,
    QuantizedLinear,
    install,
    quantization_of,
)
from pipeline.models.lm import LmModel
from pipeline.models.quantization import quantize_checkpoint

# Wide enough for every group size, but for the low-rank tables, which are left as they are.
WIDE = {
    **LM,
    "dim": 128,
    "depformer_dim": 64,
    "depformer_dim_feedforward": 192,
    "depformer_weights_per_step_schedule": [0, 1, 1, 1],
    "depformer_low_rank_embeddings": 8,
}
PUBLISHED = [Quantization(4, 32), Quantization(6, 64), Quantization(8, 64)]
# Greatest difference of a product with packed words from one with the dense matrix they
# stand for, against the greatest number in it: the order of a sum, in float32.
ROUNDING = 1e-4


def config(changes: dict[str, Any] | None = None) -> LmConfig:
    return parse_lm_config({**WIDE, **(changes or {})})


def quantize(tensor: mx.array, how: Quantization) -> Quantized:
    return Quantized(*mx.quantize(tensor, group_size=how.group, bits=how.bits), how)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "model.safetensors"
    random_init.write_checkpoint(path, random_init.lm_tensors(config()), 1, "BF16")
    return path


@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda how: f"q{how.bits}")
def published(request: pytest.FixtureRequest, dense: Path) -> tuple[Path, Quantization]:
    path = dense.with_name(f"model.q{request.param.bits}.safetensors")
    quantize_checkpoint(dense, path, config(), request.param.bits)
    return path, request.param


@pytest.fixture(scope="module")
def mixed(dense: Path) -> Path:
    """Layer 0 in 8 bits, the tables in 6, the text head not at all, the rest in 4."""
    parts = {bits: mx.load(str(_quantized(dense, bits))) for bits in (4, 6, 8)}
    plain = mx.load(str(dense))
    tensors = {}
    for name in parts[4]:
        stem = name.rsplit(".", 1)[0]
        bits = 8 if ".layers.0." in name else 6 if "emb" in name else 4
        if stem == "text_linear":
            tensors["text_linear.weight"] = plain["text_linear.weight"]
            continue
        tensors |= {full: array for full, array in parts[bits].items() if full.rsplit(".", 1)[0] == stem}
    path = dense.with_name("model.mixed.safetensors")
    mx.save_safetensors(str(path), tensors)
    return path


def _quantized(dense: Path, bits: int) -> Path:
    path = dense.with_name(f"part{bits}.safetensors")
    quantize_checkpoint(dense, path, config(), bits)
    return path


def logits(model: LmModel) -> mx.array:
    c = model.config
    rng = np.random.default_rng(5)
    codes = rng.integers(0, c.card, (1, 1 + c.n_q, 9)).astype(np.int32)
    codes[:, :, 4] = -1  # no input
    found = model.logits(codes)
    return mx.concatenate([found.text.reshape(-1), found.audio.reshape(-1)])


def loaded(path: Path, *, keep: bool) -> LmModel:
    model = LmModel(config())
    model.load_weights(path, keep_quantized=keep)
    return model


@settings(max_examples=200, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    group=st.sampled_from(GROUPS),
    rows=st.integers(1, 99),
    groups=st.integers(1, 8),
)
def test_shapes_determine_bits_and_group(bits: int, group: int, rows: int, groups: int) -> None:
    """Whatever the bits and the group, the shapes that MLX makes determine them."""
    how = Quantization(bits, group)
    shape = (rows, group * groups)
    assert quantization_of(shape, how.packed_shape(shape), how.scales_shape(shape)) == how


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_shapes_and_sizes_are_those_of_mlx(bits: int, group: int) -> None:
    """`packed_shape`, `scales_shape` and `size_bytes` are what `mx.quantize` gives."""
    how = Quantization(bits, group)
    made = quantize(mx.random.normal((6, 256), key=mx.random.key(0)), how)
    assert made.words.shape == how.packed_shape((6, 256))
    assert made.scales.shape == made.biases.shape == how.scales_shape((6, 256))
    assert sum(part.nbytes for part in made.arrays()) == how.size_bytes((6, 256), 4)


@pytest.mark.parametrize("how", PUBLISHED)
def test_a_quantized_layer_is_its_dense_one(how: Quantization) -> None:
    """A linear layer with packed words computes what one with the dense matrix does."""
    x = mx.random.normal((3, 128), key=mx.random.key(1))
    weight = quantize(mx.random.normal((16, 128), key=mx.random.key(2)), how)
    bias = mx.arange(16).astype(mx.float32)
    expected = x @ weight.dequantized(mx.float32).T + bias
    found = QuantizedLinear(weight, bias)(x)
    assert mx.max(mx.abs(found - expected)).item() <= ROUNDING * mx.max(mx.abs(expected)).item()


@pytest.mark.parametrize("how", PUBLISHED)
def test_in_a_quantized_table_minus_one_is_nothing(how: Quantization) -> None:
    """Rows are those of the dense table, bit for bit, and token −1 adds exactly zero."""
    table = Embedding(20, 64)
    weight = quantize(mx.random.normal((20, 64), key=mx.random.key(3)), how)
    install(table, [("weight", weight)])
    tokens = mx.array([[3, -1, 19, 0, -1]])
    found = np.array(table(tokens))
    assert not found[0, [1, 4]].any()
    rows = np.array(weight.dequantized(mx.float32))
    np.testing.assert_array_equal(found[0, [0, 2, 3]], rows[[3, 19, 0]])


def test_dense_at_load_is_what_mlx_makes_of_the_file(published: tuple[Path, Quantization]) -> None:
    """Bit for bit `mx.dequantize` of the file's words, with its scales and biases in float32."""
    path, how = published
    file, shapes = mx.load(str(path)), LmModel(config()).parameter_shapes()
    bits = {"words": 0, "dense": 0}
    model = loaded(path, keep=False)
    for assignment in LmModel(config()).check_weights(path):
        stem = assignment.source.removesuffix(".weight")
        weight = file[assignment.source]
        if assignment.quantization is not None:
            assert assignment.quantization == how
            scales, biases = (file[f"{stem}.{p}"].astype(mx.float32) for p in ("scales", "biases"))
            weight = mx.dequantize(weight, scales, biases, group_size=how.group, bits=how.bits)
        bits["dense" if assignment.quantization is None else "words"] += 1
        for name in assignment.targets:
            here = model
            for step in name.split("."):
                here = here[int(step)] if isinstance(here, list) else here[step]
            assert here.shape == shapes[name]
            np.testing.assert_array_equal(np.array(here), np.array(weight.astype(mx.float32)), name)
    assert bits["words"] > 50
    assert bits["dense"] > 10


def test_kept_quantized_a_model_is_its_dense_one(published: tuple[Path, Quantization]) -> None:
    """Logits of products with packed words are those of the dense reference, up to rounding."""
    path, _ = published
    expected, found = logits(loaded(path, keep=False)), logits(loaded(path, keep=True))
    known = ~np.isnan(np.array(expected))
    difference = np.abs(np.array(found) - np.array(expected))[known]
    assert known.sum() > 100
    assert difference.max() <= 10 * ROUNDING * np.abs(np.array(expected)[known]).max()


def test_in_bfloat16_as_on_a_gpu(published: tuple[Path, Quantization]) -> None:
    """Kept quantized in 16 bits, a whole model's logits are those of the dense float32 one within 5 %."""
    model = LmModel(config())
    model.load_weights(published[0], mx.bfloat16, keep_quantized=True)
    assert model.dtype == mx.bfloat16
    assert model.state(1).keys[0].dtype == mx.bfloat16
    expected, found = (np.array(logits(m)) for m in (loaded(published[0], keep=False), model))
    known = ~np.isnan(expected)
    assert np.linalg.norm((found - expected)[known]) < 0.05 * np.linalg.norm(expected[known])


@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (6, 0.12), (4, 0.6)])
def test_fewer_bits_give_nearly_the_same_logits(dense: Path, bits: int, most: float) -> None:
    """Against the checkpoint it was made from, the error of all logits stays below a share of them."""
    path = dense.with_name("near.safetensors")
    quantize_checkpoint(dense, path, config(), bits)
    expected, found = (np.array(logits(loaded(p, keep=True))) for p in (dense, path))
    known = ~np.isnan(expected)
    error = np.linalg.norm((found - expected)[known]) / np.linalg.norm(expected[known])
    assert 0 < error < most


def test_steps_of_a_quantized_model_are_its_whole(published: tuple[Path, Quantization]) -> None:
    """A state kept from step to step: the likeliest token of each step is that of the dense model."""
    tokens = []
    for keep in (True, False):
        model = loaded(published[0], keep=keep)
        state, step_tokens = model.state(2), []
        lanes = np.array([1], np.int32)
        text, audio = np.array([[40]], np.int32), np.full((1, 8, 1), 32, np.int32)
        for _ in range(10):
            token, codes, state = model.step(text, audio, state, lanes)
            step_tokens.append([int(token.item()), *codes[0].tolist()])
            text = np.array(token)[:, None]
            audio[:, :4] = np.array(codes)[:, :, None]
        tokens.append(step_tokens)
    assert tokens[0] == tokens[1]


def test_bits_may_be_mixed(mixed: Path) -> None:
    """Each tensor by its own shapes; kept or dense, the model is the same."""
    by_bits: dict[Any, int] = {}
    for assignment in LmModel(config()).check_weights(mixed):
        by_bits[assignment.quantization] = by_bits.get(assignment.quantization, 0) + 1
    assert set(by_bits) == {None, *PUBLISHED}
    expected, found = (np.array(logits(loaded(mixed, keep=keep))) for keep in (False, True))
    np.testing.assert_allclose(found, expected, atol=10 * ROUNDING * np.nanmax(np.abs(expected)))


def test_a_rule_cuts_packed_words_by_rows(tmp_path: Path) -> None:
    """Several parameters in one quantized tensor, or a transposed one: each gets its numbers."""
    how, path = Quantization(4, 32), tmp_path / "w.safetensors"
    weight = quantize(mx.random.normal((8, 64), key=mx.random.key(4)), how)
    tensors = dict(zip(("packed.weight", "packed.scales", "packed.biases"), weight.arrays(), strict=True))
    mx.save_safetensors(
        str(path), tensors | {name.replace("packed", "turned"): t for name, t in tensors.items()}
    )
    rules = [Rule(r"packed\.weight", "part.{part}", parts=2), Rule("turned.weight", "turned", axes=(1, 0))]
    shapes = {"part.0": (4, 64), "part.1": (4, 64), "turned": (64, 8)}
    whole = np.array(weight.dequantized(mx.float32))
    expected = {"part.0": whole[:4], "part.1": whole[4:], "turned": whole.T}
    for keep in (False, True):
        parts = dict(stream_parameters(path, shapes, rules, mx.float32, keep_quantized=keep))
        assert isinstance(parts["part.0"], Quantized) is keep
        for name, part in parts.items():
            found = part.dequantized(mx.float32) if isinstance(part, Quantized) else part
            np.testing.assert_array_equal(np.array(found), expected[name], name)


@pytest.mark.parametrize("companion", ["scales", "biases"])
def test_words_without_their_scales_are_named(mixed: Path, companion: str) -> None:
    """Every one of them dropped: the error names exactly what is missing."""
    header = read_header(mixed)
    model = LmModel(config())
    rules = model._rules(mixed, header)
    for name in [name for name in header if name.endswith(f".{companion}")]:
        rest = {other: entry for other, entry in header.items() if other != name}
        with pytest.raises(TensorMismatchError) as caught:
            match(mixed, rest, model.parameter_shapes(), rules)
        assert caught.value.missing == (name,)
        assert not caught.value.extra
        assert not caught.value.misshaped


def test_scales_of_another_shape_are_named(mixed: Path) -> None:
    """Reshaped words, scales or biases: the error names the tensor."""
    header = read_header(mixed)
    model = LmModel(config())
    rules = model._rules(mixed, header)
    stem = "transformer.layers.1.gating.linear_in"
    for part in ("weight", "scales", "biases"):
        entry = header[f"{stem}.{part}"]
        wrong = type(entry)(entry.dtype, (entry.shape[0], entry.shape[1] + 1))
        with pytest.raises(TensorMismatchError, match=stem):
            match(mixed, header | {f"{stem}.{part}": wrong}, model.parameter_shapes(), rules)


def test_an_extra_quantized_tensor_is_named_with_its_scales(mixed: Path) -> None:
    """A quantized tensor without a parameter is named three times."""
    header = read_header(mixed)
    model = LmModel(config())
    stray = {f"stray.{part}": header[f"text_emb.{part}"] for part in ("weight", "scales", "biases")}
    with pytest.raises(TensorMismatchError) as caught:
        match(mixed, header | stray, model.parameter_shapes(), model._rules(mixed, header))
    assert set(caught.value.extra) == set(stray)


@pytest.mark.parametrize("words", PUBLISHED, ids=lambda how: f"words{how.bits}")
@pytest.mark.parametrize("scales", PUBLISHED, ids=lambda how: f"scales{how.bits}")
def test_scales_of_another_file_are_named(tmp_path: Path, words: Quantization, scales: Quantization) -> None:
    """Words of one quantization beside scales of another load nowhere, though the shapes may agree."""
    path = tmp_path / "w.safetensors"
    tensor = mx.random.normal((64, 128), key=mx.random.key(6)) * 0.05 + 0.01
    w, s = (quantize(tensor.astype(mx.bfloat16), how) for how in (words, scales))
    mx.save_safetensors(str(path), {"a.b.weight": w.words, "a.b.scales": s.scales, "a.b.biases": s.biases})
    if words == scales:
        load_parameters(path, {"a.b.weight": (64, 128)}, [], mx.float32)
        return
    with pytest.raises(WeightsError, match=r"a\.b"):
        load_parameters(path, {"a.b.weight": (64, 128)}, [], mx.float32)


@pytest.mark.parametrize("part", ["scales", "biases"])
@pytest.mark.parametrize("value", [mx.nan, mx.inf])
def test_scales_that_are_not_finite_are_named(tmp_path: Path, part: str, value: float) -> None:
    """One infinite scale spoils a whole group, so it is found while loading."""
    path = tmp_path / "w.safetensors"
    w = quantize(mx.random.normal((64, 128), key=mx.random.key(7)), PUBLISHED[0])
    tensors = {"a.weight": w.words, "a.scales": w.scales, "a.biases": w.biases}
    tensors[f"a.{part}"][3, 1] = value
    mx.save_safetensors(str(path), tensors)
    with pytest.raises(WeightsError, match=f"a.{part} holds infinite numbers"):
        load_parameters(path, {"a.weight": (64, 128)}, [], mx.float32)
