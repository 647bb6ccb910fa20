"""A checkpoint is loaded whole or refused in one sentence that names everything."""

import gc
import json
import os
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TensorMismatchError, WeightsError
from pipeline.models.checkpoint import loading
from pipeline.models.checkpoint.loading import Rule, load_parameters, stream_parameters
from pipeline.models.checkpoint.safetensors_header import TensorHeader, read_header

TENSORS = {
    "kernel": mx.arange(24).reshape(2, 3, 4).astype(mx.float32),
    "packed": mx.arange(12).reshape(6, 2).astype(mx.bfloat16),
    "alpha": mx.array([[[0.5, 0.25]]]),
    "same": mx.array([1.0, 2.0], mx.float16),
    "buffer._initialized": mx.array([1.0]),
}
PARAMETERS = {"kernel": (2, 4, 3), "piece.0": (3, 2), "piece.1": (3, 2), "norm.alpha": (2,), "same": (2,)}
RULES = (
    Rule("(kernel)", r"\1", axes=(0, 2, 1)),
    Rule("packed", "piece.{part}", parts=2),
    Rule("(alpha)", r"norm.\1", leading_ones=2),
    Rule(r".+\._initialized", None),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def save(path: Path, changes: dict[str, mx.array | None] | None = None) -> None:
    tensors = {**TENSORS, **(changes or {})}
    mx.save_safetensors(str(path), {name: t for name, t in tensors.items() if t is not None})


def test_rules_rename_split_squeeze_and_transpose(path: Path) -> None:
    """Every parameter gets exactly its numbers, in the requested dtype."""
    save(path)
    loaded = dict(load_parameters(path, PARAMETERS, RULES, mx.float32))
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    packed = np.arange(12, dtype=np.float32).reshape(6, 2)
    expected = {
        "kernel": kernel.transpose(0, 2, 1),
        "piece.0": packed[:3],
        "piece.1": packed[3:],
        "norm.alpha": np.array([0.5, 0.25]),
        "same": np.array([1, 2]),
    }
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert loaded[name].dtype == mx.float32
        np.testing.assert_array_equal(np.array(loaded[name]), value)


def test_the_header_has_names_dtypes_and_shapes(path: Path) -> None:
    """It is read without reading a weight."""
    save(path)
    header = read_header(path)
    assert header["packed"] == TensorHeader("BF16", (6, 2))
    assert header.keys() == TENSORS.keys()


def test_everything_wrong_is_named_at_once(path: Path) -> None:
    """Missing, left over and mis-shaped tensors come in one error, by name."""
    save(path, {"same": None, "stray": mx.zeros(1), "packed": mx.zeros((4, 2)), "alpha": mx.zeros(2)})
    with pytest.raises(TensorMismatchError) as caught:
        load_parameters(path, PARAMETERS, RULES, mx.float32)
    assert caught.value.missing == ("same",)
    assert caught.value.extra == ("stray",)
    assert set(caught.value.misshaped) == {("packed", (6, 2), (4, 2)), ("alpha", (1, 1, 2), (2,))}
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: os.truncate(path, 300), lambda path: path.write_bytes(b"")]
)
def test_a_file_that_changes_between_its_header_and_its_numbers_is_named(
    path: Path, monkeypatch, change
) -> None:
    """Another program may write or remove it meanwhile; MLX's own error would be an internal one."""
    save(path)
    header = read_header(path)
    change(path)
    monkeypatch.setattr(loading, "read_header", lambda _: header)
    with pytest.raises(WeightsError, match="changed while it was read"):
        load_parameters(path, PARAMETERS, RULES, mx.float32)


def test_two_tensors_for_one_parameter_are_one_too_many(path: Path) -> None:
    """A second source is left over, unless the rule expects copies."""
    save(path, {"same_too": TENSORS["same"]})
    rules = (*RULES, Rule("same_too", "same"))
    with pytest.raises(TensorMismatchError) as caught:
        load_parameters(path, PARAMETERS, rules, mx.float32)
    assert caught.value.extra == ("same_too",)
    load_parameters(path, PARAMETERS, (*RULES, Rule("same_too", "same", copies=True)), mx.float32)


def test_copies_that_differ_are_refused(path: Path) -> None:
    """What a layout stores several times must be the same every time."""
    save(path, {"same_too": TENSORS["same"] + 1})
    with pytest.raises(WeightsError, match="same_too differs"):
        load_parameters(path, PARAMETERS, (*RULES, Rule("same_too", "same", copies=True)), mx.float32)


def test_a_rule_that_matches_nothing_is_an_error(path: Path) -> None:
    """Rules describe a layout; one that is not needed describes another."""
    save(path)
    with pytest.raises(WeightsError, match="no tensor is named like never"):
        load_parameters(path, PARAMETERS, (*RULES, Rule("never", "same")), mx.float32)


def test_whole_numbers_are_no_weights(path: Path) -> None:
    """An integer tensor of the right shape is not silently taken for a weight."""
    save(path, {"same": mx.array([1, 2], mx.uint32)})
    with pytest.raises(WeightsError, match=r"same \(U32\)"):
        load_parameters(path, PARAMETERS, RULES, mx.float32)


@settings(max_examples=60, deadline=None)
@given(keep=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, keep: float) -> None:
    """Nothing but `WeightsError`, naming the path, wherever the download stopped."""
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(WeightsError, match="safetensors"):
        read_header(path)


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200))
def test_junk_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Any other file is refused with `WeightsError` and nothing else."""
    path = tmp_path_factory.mktemp("junk") / "model.safetensors"
    path.write_bytes(junk)
    with pytest.raises(WeightsError):
        read_header(path)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_a_malformed_entry_is_named(path: Path, entry: object) -> None:
    """A header that contradicts itself is refused before anything is allocated."""
    text = json.dumps({"__metadata__": {"format": "mlx"}, "weird": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(WeightsError, match="weird"):
        read_header(path)


@pytest.mark.parametrize("text", [b"[]", b"\xff\xfe", b"{", b'"a"'])
def test_a_header_that_is_no_object_is_refused(path: Path, text: bytes) -> None:
    """JSON of another kind, or none."""
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_header(path)


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder are each named with the system's reason."""
    with pytest.raises(WeightsError, match="No such file"):
        read_header(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="directory"):
        read_header(tmp_path)


@pytest.mark.parametrize("name", [name for name in TENSORS if "_initialized" not in name])
@pytest.mark.parametrize("value", [mx.nan, mx.inf, -mx.inf])
def test_a_number_that_is_none_is_found_and_its_tensor_named(path: Path, name: str, value: float) -> None:
    """One NaN or infinity anywhere, in any dtype, is enough; the sentence names the tensor."""
    spoilt = mx.array(TENSORS[name])
    spoilt[(-1,) * spoilt.ndim] = value
    save(path, {name: spoilt})
    with pytest.raises(WeightsError, match=f"{name} holds infinite numbers, or NaN"):
        load_parameters(path, PARAMETERS, RULES, mx.float32)


def test_large_numbers_are_numbers(path: Path) -> None:
    """Weights whose sum overflows are odd, and still weights."""
    save(path, {"kernel": mx.full((2, 3, 4), 3e38)})
    assert dict(load_parameters(path, PARAMETERS, RULES, mx.float32))["kernel"].max().item() > 2e38


def test_what_is_no_weight_is_never_read(path: Path) -> None:
    """A buffer that a rule leaves out may hold anything."""
    save(path, {"buffer._initialized": mx.array([mx.nan])})
    load_parameters(path, PARAMETERS, RULES, mx.float32)


def test_one_tensor_at_a_time(path: Path) -> None:
    """Loading holds on to nothing: a tensor is freed once its numbers were given out."""
    count, numbers = 32, 2**20  # of 2 MiB each in the file, 4 MiB as they are given
    mx.save_safetensors(str(path), {f"t{i}": mx.ones(numbers, mx.bfloat16) for i in range(count)})
    gc.collect()  # what other tests left would be freed meanwhile
    before_bytes = mx.get_active_memory()
    peak_bytes = 0
    for _ in stream_parameters(path, {f"t{i}": (numbers,) for i in range(count)}, (), mx.float32):
        peak_bytes = max(peak_bytes, mx.get_active_memory() - before_bytes)
    assert 4 * numbers <= peak_bytes <= 6 * 4 * numbers


def save_shards(folder: Path, where: dict[str, str], index: dict[str, str] | None = None) -> Path:
    for file in set(where.values()):
        tensors = {name: t for name, t in TENSORS.items() if where.get(name) == file}
        mx.save_safetensors(str(folder / file), tensors)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": where if index is None else index}))
    return path


def in_two() -> dict[str, str]:
    return {name: f"model-{i % 2}.safetensors" for i, name in enumerate(TENSORS)}


def test_shards_are_one_checkpoint(path: Path) -> None:
    """What several files hold, an index puts together; copies may lie in different ones."""
    save(path)
    whole = dict(load_parameters(path, PARAMETERS, RULES, mx.float32))
    index = save_shards(path.parent, in_two())
    parts = dict(load_parameters(index, PARAMETERS, RULES, mx.float32))
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        assert mx.array_equal(parts[name], value)
    assert read_header(index)["packed"].file.name == in_two()["packed"]


def test_an_index_that_is_wrong_is_named(path: Path) -> None:
    """A tensor sent to another shard, one that is in none, and one that the index does not know."""
    where = in_two()
    for index, wrong in (
        (where | {"same": where["kernel"], "kernel": where["packed"]}, "kernel"),
        (where | {"gone": "model-0.safetensors"}, "gone"),
        ({name: file for name, file in where.items() if name != "alpha"}, "alpha"),
    ):
        with pytest.raises(WeightsError, match=wrong):
            read_header(save_shards(path.parent, where, index))


def test_a_tensor_in_two_shards_is_named(path: Path) -> None:
    """It is ambiguous which of them is meant."""
    index = save_shards(path.parent, in_two())
    mx.save_safetensors(str(path.parent / "model-1.safetensors"), TENSORS)
    with pytest.raises(WeightsError, match="kernel"):
        read_header(index)


def test_a_missing_or_cut_shard_is_named(path: Path) -> None:
    """By its own path, not the index's."""
    index = save_shards(path.parent, in_two())
    shard = path.parent / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="1 bytes are missing") as cut:
        read_header(index)
    shard.unlink()
    with pytest.raises(WeightsError, match="No such file") as gone:
        read_header(index)
    assert cut.value.path == gone.value.path == str(shard)
