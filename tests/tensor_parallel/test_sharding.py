"""The shards of all ranks make up the whole model, and a model that cannot be split evenly is refused."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import LM, write_folder
from support.tensor_parallel.ranks_rig import ROOT, SHARED

from pipeline.backend import Ranks
from pipeline.config import read_config
from pipeline.errors import ConfigError, UnsupportedModelError
from pipeline.models.bundle import open_bundle
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.layers.quantized import Quantization, Quantized
from pipeline.models.lm import LmModel
from pipeline.models.memory import memory_needs
from pipeline.models.quantization import quantize_checkpoint
from pipeline.models.sharding import Shard, ShardRank, ShardSpec
from pipeline.stages.model_stages import open_stages

PLAIN: Mapping[str, Any] = {
    **LM, "gating": "none", "depformer_gating": "none", "depformer_weights_per_step": False,
    "depformer_multi_linear": False, "bias_proj": True,
}  # fmt: skip


def published(name: str) -> LmConfig:
    return parse_lm_config(json.loads((ROOT / "configs" / name).read_text()))


def reassembled(parts: list[mx.array], cut: ShardSpec) -> mx.array:
    """The whole, from the shards of all ranks: block by block, rank by rank."""
    size = len(parts)
    begins = np.cumsum([0, *(block // size for block in cut.blocks)])
    pieces = [
        np.array(part).take(range(begin, end), axis=cut.axis)
        for begin, end in itertools.pairwise(begins)
        for part in parts
    ]
    return mx.array(np.concatenate(pieces, axis=cut.axis))


@pytest.mark.parametrize("raw", [SHARED, PLAIN], ids=["gated", "plain"])
@pytest.mark.parametrize("replicated_depformer", [False, True])
def test_the_shards_of_every_parameter_are_the_whole(
    raw: Mapping[str, Any], replicated_depformer: bool
) -> None:
    """Nothing is lost, and nothing is there twice except replicated parameters."""
    config = parse_lm_config(raw)
    shards = [Shard(rank, 2, replicated_depformer=replicated_depformer) for rank in range(2)]
    split = set()
    for name, shape in LmModel(config).parameter_shapes().items():
        whole = mx.arange(int(np.prod(shape)), dtype=mx.float32).reshape(shape)
        parts = [shard.take(config, name, whole) for shard in shards]
        assert all(isinstance(part, mx.array) for part in parts)
        assert {part.shape for part in parts} == {shards[0].shapes(config, {name: shape})[name]}
        cut = shards[0].spec(config, name)
        if cut is None:
            assert all(mx.array_equal(part, whole) for part in parts)
        else:
            split.add(name)
            assert sum(part.size for part in parts) == whole.size
            assert mx.array_equal(reassembled(parts, cut), whole)
    assert any(name.startswith("transformer.") for name in split)
    assert any(name.startswith("depformer.") for name in split) != replicated_depformer


@given(st.sampled_from([(4, 32), (8, 32), (6, 64)]), st.sampled_from([0, 1]), st.integers(0, 2**16))
def test_the_shard_of_a_quantized_matrix_is_the_quantized_shard(
    how: tuple[int, int], axis: int, seed: int
) -> None:
    """Words, scales and biases are split alike, so that they represent the shard of the dense matrix."""
    bits, group = how
    config = parse_lm_config(SHARED | {"dim": 256, "hidden_scale": 1.5})
    name = f"transformer.layers.0.gating.0.linear_{'in' if axis == 0 else 'out'}.weight"
    shape = LmModel(config).parameter_shapes()[name]
    matrix = mx.random.normal(shape, key=mx.random.key(seed))
    packed = Quantized(*mx.quantize(matrix, group_size=group, bits=bits), Quantization(bits, group))
    for rank in range(2):
        shard = Shard(rank, 2)
        part = shard.take(config, name, packed)
        assert isinstance(part, Quantized)
        expected = shard.take(config, name, packed.dequantized(mx.float32))
        assert mx.array_equal(part.dequantized(mx.float32), expected)


@pytest.mark.parametrize(
    ("changes", "size", "what"),
    [
        ({}, 3, "num_heads"),
        ({}, 4, "num_heads"),  # four heads, but two of keys and values
        ({"hidden_scale": 1.2}, 2, "hidden_scale"),
        ({"kv_repeat": 1, "depformer_dim_feedforward": 66}, 4, "depformer_num_heads"),
        ({"depformer_dim_feedforward": 64}, 2, None),
    ],
)
def test_a_model_that_does_not_divide_is_refused_before_anything_is_read(
    changes: Mapping[str, Any], size: int, what: str | None
) -> None:
    """By name, with the numbers of ranks that are possible."""
    config = parse_lm_config(SHARED | changes)
    if what is None:
        Shard(0, size).check(config)
        return
    with pytest.raises(ConfigError, match=f"{size} ranks do not divide .*{what}") as refused:
        Shard(0, size).check(config)
    assert "numbers that do: 2" in str(refused.value) or "one process only" in str(refused.value)


def test_the_command_refuses_it_too(checkpoint: Path) -> None:
    """Before a weight is read."""
    with pytest.raises(ConfigError, match="3 ranks do not divide"):
        open_stages(read_config(checkpoint), Ranks(1, 3))


def test_groups_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    """Where weights stay quantized; 176 numbers are eleven halves of groups of 32."""
    config = parse_lm_config(SHARED | {"dim": 64, "hidden_scale": 4.125})
    folder = write_folder(tmp_path, lm=SHARED | {"dim": 64, "hidden_scale": 4.125})
    packed = tmp_path / "model.q4.safetensors"
    quantize_checkpoint(folder / "model.safetensors", packed, config, 4)
    assignments = LmModel(config).check_weights(packed)
    with pytest.raises(UnsupportedModelError, match="groups of 32"):
        Shard(0, 4).check_quantized(config, assignments, str(packed))


def test_loading_keeps_the_shard_and_releases_the_rest(tmp_path: Path) -> None:
    """Memory afterwards is as planned, and while loading at most two tensors more."""
    raw = SHARED | {"dim": 256, "num_layers": 4}
    bundle = open_bundle(read_config(write_folder(tmp_path, lm=raw)))
    shard = Shard(1, 2)
    model = LmModel(bundle.lm)
    shapes = model.parameter_shapes()
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
    planned = sum(4 * int(np.prod(shape)) for shape in shard.shapes(bundle.lm, shapes).values())
    tables = sum(size for name, size in sizes.items() if "emb" in name)
    before_bytes = mx.get_active_memory()
    mx.reset_peak_memory()
    model.load_weights(bundle.lm_path, shard_rank=ShardRank(shard, mx.distributed.init()))
    kept_bytes = mx.get_active_memory() - before_bytes
    peak_bytes = mx.get_peak_memory() - before_bytes
    assert kept_bytes == pytest.approx(planned, rel=0.05)
    assert peak_bytes < planned + 3 * max(sizes.values()) + tables
    assert peak_bytes < 0.8 * sum(sizes.values())


def test_each_rank_needs_about_half(tmp_path: Path) -> None:
    """Of weights and rings; the codec is at rank 0 alone."""
    folder = write_folder(tmp_path, lm=SHARED | {"dim": 256, "num_layers": 4, "context": 300})
    bundle = open_bundle(read_config(folder, ["kernels=off"]))  # ranks compute without them
    whole, first, second = (memory_needs(bundle, 2, shard) for shard in (None, Shard(0, 2), Shard(1, 2)))
    assert first.lm_bytes == second.lm_bytes < 0.56 * whole.lm_bytes
    assert second.mimi_bytes == 0 < first.mimi_bytes == whole.mimi_bytes
    assert 2 * second.rings_bytes < whole.rings_bytes
    assert second.rings_bytes < first.rings_bytes < whole.rings_bytes


@pytest.mark.parametrize("name", ["moshi_7b_202409.json", "moshi_mlx_2b.json"])
def test_of_published_models_each_of_two_ranks_has_little_more_than_half(name: str) -> None:
    """Their embedding tables are replicated."""
    config = published(name)
    shard = Shard(0, 2)
    shard.check(config)
    shapes = LmModel(config).parameter_shapes()
    whole = sum(int(np.prod(shape)) for shape in shapes.values())
    mine = sum(int(np.prod(shape)) for shape in shard.shapes(config, shapes).values())
    assert 0.5 * whole < mine < 0.58 * whole
