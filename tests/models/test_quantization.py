"""A quantized checkpoint is made from any layout, has every tensor, and appears whole or not at all."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from support.checkpoints import LM
from support.models.lm_layouts import as_mlx, as_split

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.safetensors_header import TensorHeader, read_header
from pipeline.models.checkpoint.writer import new_checkpoint
from pipeline.models.lm import LmModel
from pipeline.models.quantization import mlx_names, quantize_checkpoint

WIDE = {**LM, "dim": 64, "depformer_dim": 64, "depformer_dim_feedforward": 192}
CONDITIONED = {
    "conditioners": {
        "description": {"type": "lut", "lut": {"n_bins": 31, "dim": 16, "tokenizer": "noop"}},
    },
    "fuser": {"sum": ["description"]},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "moshi": {},
    "hibiki": {
        **CONDITIONED,
        "depformer_weights_per_step_schedule": [0, 1, 1, 1],
        "depformer_low_rank_embeddings": 8,
    },
    "hibiki-zero": {
        "kv_repeat": 2,
        "depformer_kv_repeat": 1,
        "depformer_norm": "layer_norm",
        "positional_embedding": "rope_concat",
    },
    "layer norm": {"norm": "layer_norm"},
    "one set of weights": {"depformer_weights_per_step": False, "depformer_multi_linear": False},
}


def make(
    folder: Path, changes: dict[str, Any], dtype: random_init.StoredDtype = "BF16"
) -> tuple[Path, LmConfig]:
    config = parse_lm_config({**WIDE, **changes})
    path = folder / "model.safetensors"
    random_init.write_checkpoint(path, random_init.lm_tensors(config), 1, dtype)
    return path, config


def make_personaplex(folder: Path, changes: dict[str, Any]) -> tuple[Path, LmConfig]:
    """With the slices of the depth transformer that predict the user, and that nothing uses."""
    config = parse_lm_config({**WIDE, **changes})
    whole = msgspec.structs.replace(config, dep_q=config.n_q, unused_slices=0)
    path = folder / "model.safetensors"
    random_init.write_checkpoint(path, random_init.lm_tensors(whole), 1, "BF16")
    return path, config


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family_loads_when_quantized(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Strictly: no tensor is missing, left over or mis-shaped, and most are quantized."""
    source, config = make(tmp_path, changes)
    made = quantize_checkpoint(source, tmp_path / "q8.safetensors", config, 8)
    assignments = LmModel(config).check_weights(made.path)
    assert {a.quantization for a in assignments} == {None, (8, 64)}
    quantized = {name for a in assignments if a.quantization for name in a.targets}
    assert len(quantized) == made.quantized
    assert made.size_bytes == made.path.stat().st_size
    LmModel(config).load_weights(made.path, keep_quantized=True)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64)])
@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_quantized_family_equals_its_dense_reference(
    tmp_path: Path, changes: dict[str, Any], bits: int, group: int
) -> None:
    """Logits of products with packed words are those of the same words made dense, up to rounding."""
    source, config = make(tmp_path, changes)
    made = quantize_checkpoint(source, tmp_path / "quantized.safetensors", config, bits, group)
    generator = np.random.Generator(np.random.PCG64(3))
    codes = generator.integers(0, config.card, (1, 1 + config.n_q, 12), dtype=np.int32)
    flat_logits = []
    for keep_quantized in (False, True):
        model = LmModel(config)
        model.load_weights(made.path, keep_quantized=keep_quantized)
        logits = model.logits(codes)
        flat_logits.append(np.concatenate([np.array(logits.text).ravel(), np.array(logits.audio).ravel()]))
    dense, packed = (values[~np.isnan(flat_logits[0])] for values in flat_logits)
    assert len(dense) > 100
    np.testing.assert_allclose(packed, dense, atol=1e-3 * np.abs(dense).max())


@pytest.mark.parametrize(
    ("bits", "uniform", "others"),
    [(4, False, (8, 64)), (4, True, (4, 32)), (6, False, (8, 64)), (8, False, (8, 64))],
)
def test_personaplex_keeps_eight_bits_where_it_needs_them(
    tmp_path: Path, bits: int, uniform: bool, others: tuple[int, int]
) -> None:
    """Depth transformer, heads and embeddings, unless asked otherwise; it computes as its dense reference."""
    halves = [0, 1, 1, 1, 1]
    changes = {"model_type": "personaplex", "n_q": 8, "dep_q": 8, "delays": [0, *halves[1:], *halves[1:]]}
    source, config = make_personaplex(tmp_path, changes)
    made = quantize_checkpoint(source, tmp_path / "q.safetensors", config, bits, uniform=uniform)
    found: dict[bool, set[object]] = {True: set(), False: set()}
    for assignment in LmModel(config).check_weights(made.path):
        if assignment.quantization is not None:
            found[assignment.targets[0].startswith("transformer.")].add(tuple(assignment.quantization))
    assert found == {True: {(bits, {4: 32, 6: 64, 8: 64}[bits])}, False: {others}}
    codes = np.random.default_rng(3).integers(0, config.card, (1, 1 + config.n_q, 12), dtype=np.int32)
    flat = []
    for keep_quantized in (False, True):
        model = LmModel(config)
        model.load_weights(made.path, keep_quantized=keep_quantized)
        flat.append(np.array(model.logits(codes).audio).ravel())
    dense, packed = (values[~np.isnan(flat[0])] for values in flat)
    np.testing.assert_allclose(packed, dense, atol=1e-3 * np.abs(dense).max())


def test_what_does_not_divide_is_kept_and_named(tmp_path: Path) -> None:
    """Narrow tables stay as they were, bit for bit, in the dtype of the source."""
    source, config = make(tmp_path, FAMILIES["hibiki"])
    made = quantize_checkpoint(source, tmp_path / "q4.safetensors", config, 4)
    assert "depformer_emb.0.weight" in made.kept
    assert "condition_provider.conditioners.description.embed.weight" in made.kept
    assert "text_linear.weight" not in made.kept
    assert read_header(made.path)["depformer.slices.1.emb.weight"] == TensorHeader("BF16", (33, 8))
    before, after = mx.load(str(source)), mx.load(str(made.path))
    assert mx.array_equal(before["depformer_emb.0.weight"], after["depformer.slices.1.emb.weight"])


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (6, 64), (8, 64)])
def test_words_are_those_of_mlx(tmp_path: Path, bits: int, group: int) -> None:
    """What `mx.quantize` makes of the bfloat16 tensor, bit for bit; the group is the published one."""
    source, config = make(tmp_path, {})
    made = quantize_checkpoint(source, tmp_path / "q.safetensors", config, bits)
    before, after = mx.load(str(source)), mx.load(str(made.path))
    for name in ("text_emb", "transformer.layers.1.gating.linear_in"):
        expected = mx.quantize(before[f"{name}.weight"], group_size=group, bits=bits)
        for part, value in zip(("weight", "scales", "biases"), expected, strict=True):
            assert after[f"{name}.{part}"].dtype == value.dtype
            assert mx.array_equal(after[f"{name}.{part}"], value)


def test_every_layout_gives_the_same_file(tmp_path: Path) -> None:
    """Packed, split or MLX: the source's names do not show in what is made."""
    golden = Path(__file__).parent.parent / "data" / "lm_golden_moshi"
    config = parse_lm_config(json.loads((golden / "config.json").read_text()))
    packed = mx.load(str(golden / "model.safetensors"))
    made = []
    for layout, tensors in (
        ("packed", packed),
        ("split", as_split(packed, config)),
        ("mlx", as_mlx(packed, config)),
    ):
        source, target = tmp_path / f"{layout}.safetensors", tmp_path / f"{layout}.q8.safetensors"
        mx.save_safetensors(str(source), tensors)
        quantize_checkpoint(source, target, config, 8, 32)
        made.append(target.read_bytes())
    assert made[0] == made[1] == made[2]


def test_unused_codebooks_stay(tmp_path: Path) -> None:
    """A config with 16 codebooks still fits when only 8 are used."""
    personaplex = {**WIDE, "dep_q": 8, "model_type": "personaplex"}
    config = parse_lm_config(personaplex)
    source = tmp_path / "model.safetensors"
    whole = parse_lm_config({**personaplex, "model_type": "moshi"})
    random_init.write_checkpoint(source, random_init.lm_tensors(whole), 1)
    made = quantize_checkpoint(source, tmp_path / "q.safetensors", config, 4)
    assert any(name.startswith("depformer.slices.7.") for name in read_header(made.path))
    LmModel(config).load_weights(made.path)


def test_quantizing_twice_is_refused(tmp_path: Path) -> None:
    source, config = make(tmp_path, {})
    made = quantize_checkpoint(source, tmp_path / "q.safetensors", config, 8)
    with pytest.raises(WeightsError, match="quantized already"):
        quantize_checkpoint(made.path, tmp_path / "again.safetensors", config, 4)
    assert not (tmp_path / "again.safetensors").exists()


@pytest.mark.parametrize(("bits", "group", "key"), [(5, None, "bits"), (16, None, "bits"), (8, 48, "group")])
def test_other_quantizations_are_refused(tmp_path: Path, bits: int, group: int | None, key: str) -> None:
    source, config = make(tmp_path, {})
    with pytest.raises(ConfigError) as caught:
        quantize_checkpoint(source, tmp_path / "q.safetensors", config, bits, group)
    assert caught.value.key == key


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    """NaN is found while reading; an incomplete checkpoint is never left behind."""
    source, config = make(tmp_path, {})
    tensors = mx.load(str(source))
    tensors["linears.3.weight"][0, 0] = mx.nan
    mx.save_safetensors(str(source), tensors)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=r"linears\.3\.weight holds infinite numbers, or NaN"):
        quantize_checkpoint(source, tmp_path / "q.safetensors", config, 8)
    assert sorted(tmp_path.iterdir()) == before


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source, config = make(tmp_path, {})
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written") as caught:
        quantize_checkpoint(source, tmp_path / "file" / "q.safetensors", config, 8)
    assert caught.value.path.endswith("q.safetensors")


def test_every_parameter_has_names_of_its_own() -> None:
    """No two parameters share a name in the MLX layout, and none is without."""
    for changes in FAMILIES.values():
        config = parse_lm_config({**WIDE, **changes})
        names = [
            name for parameter in LmModel(config).parameter_shapes() for name in mlx_names(config, parameter)
        ]
        assert len(set(names)) == len(names)
        assert all(mlx_names(config, parameter) for parameter in LmModel(config).parameter_shapes())


def test_a_new_checkpoint_has_what_was_put(tmp_path: Path) -> None:
    """Whatever the order of writing, each tensor's bytes are where its header says."""
    path = tmp_path / "w.safetensors"
    values = {"a": np.arange(3, dtype=np.float32), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
    headers = {name: TensorHeader("F32", value.shape) for name, value in values.items()}
    with new_checkpoint(path, headers, {"made": "by hand"}) as file:
        for name in ("b", "a"):
            file.put(name, values[name].tobytes())
    read = mx.load(str(path))
    for name, value in values.items():
        np.testing.assert_array_equal(np.array(read[name]), value)
