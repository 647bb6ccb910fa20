"""Weights stay in the file, which is mapped into memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.checkpoints import LM, write_folder

from pipeline.config import read_config
from pipeline.errors import WeightsError, WeightsLostError
from pipeline.kernels.library import Library
from pipeline.models import native
from pipeline.models.bundle import load_lm, open_bundle
from pipeline.models.checkpoint.loading import COPIES
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.native import MappedReader
from pipeline.models.quantization import quantize_checkpoint
from pipeline.stages.stepper import StepperStage
from pipeline.stages.text import TokenIds, UtteranceRules
from pipeline.values import SamplingParams

WIDE = {**LM, "dim": 256, "depformer_dim": 128, "depformer_dim_feedforward": 384, "hidden_scale": 4.0}


def quantized(folder: Path) -> Path:
    write_folder(folder, lm=WIDE)
    config = open_bundle(read_config(folder)).lm
    return quantize_checkpoint(
        folder / "model.safetensors", folder / "packed.safetensors", config, 4, 32
    ).path


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_tensors_are_those_of_the_file(library: Library, tmp_path: Path) -> None:
    """Of every dtype in a checkpoint, dense and packed."""
    for path in (quantized(tmp_path), tmp_path / "model.safetensors"):
        read, mapped = COPIES.open(path), MappedReader(library).open(path)
        assert read.keys() == mapped.keys()
        for name, tensor in read.items():
            assert mapped[name].dtype == tensor.dtype
            assert mx.array_equal(mapped[name], tensor), name


def test_packed_weights_take_no_memory_besides_the_file(library: Library, tmp_path: Path) -> None:
    """Neither while they are loaded nor afterwards, until the model is gone."""
    path = quantized(tmp_path)
    config = open_bundle(read_config(tmp_path)).lm
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_lm(config, path, kernels=library)
    assert is_mapped(path)
    assert mx.get_peak_memory() - before < path.stat().st_size / 10
    del model
    assert not is_mapped(path)


def test_dense_weights_take_no_memory_besides_the_file(library: Library, tmp_path: Path) -> None:
    """Also where several parameters are parts of one tensor."""
    write_folder(tmp_path, lm=WIDE)
    path = tmp_path / "model.safetensors"
    before = mx.get_active_memory()
    model = load_lm(open_bundle(read_config(tmp_path)).lm, path, kernels=library)
    assert mx.get_active_memory() - before < path.stat().st_size / 10
    del model


def test_what_is_written_to_a_weight_stays_in_the_process(library: Library, tmp_path: Path) -> None:
    """The file, and what others have of it, does not change."""
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64) + np.arange(1000, dtype=np.float32).tobytes())
    before = path.read_bytes()
    tensor = library.native.Mapping(str(path)).tensor(64, [1000], "float32")
    view = np.array(tensor, copy=False)
    view[:] = 7
    assert mx.all(tensor == 7)
    assert path.read_bytes() == before


def test_a_file_may_be_replaced_while_it_is_in_use(library: Library, tmp_path: Path) -> None:
    """The model goes on with the one it was loaded from."""
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64) + np.arange(1000, dtype=np.float32).tobytes())
    tensor = library.native.Mapping(str(path)).tensor(64, [1000], "float32")
    (tmp_path / "new").write_bytes(b"shorter")
    (tmp_path / "new").replace(path)
    np.testing.assert_array_equal(np.array(tensor), np.arange(1000))


_CUT_SHORT = """
import os, sys
import numpy as np
from pipeline import backend

native, path = backend.kernels().native, sys.argv[1]
tensor = native.Mapping(path).tensor(64, [100_000], "float32")
assert native.lost_file() is None
os.truncate(path, 70_000)
numbers = np.array(tensor)
print(native.lost_file() == path, numbers.shape, set(numbers[50_000:].tolist()))
del tensor
print(native.lost_file())
"""


def test_a_file_that_is_cut_short_does_not_end_the_process(library: Library, tmp_path: Path) -> None:
    """Zeros are read in place of what is gone, and it is known for as long as the file is mapped."""
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64) + np.arange(100_000, dtype=np.float32).tobytes())
    done = subprocess.run(
        [sys.executable, "-c", _CUT_SHORT, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:2] == ["True (100000,) {0.0}", "None"]


def test_another_bus_error_ends_the_process_as_before(library: Library, tmp_path: Path) -> None:
    """Only what is mapped here is replaced."""
    script = """
import mmap, os, sys
from pipeline import backend

native, path = backend.kernels().native, sys.argv[1]
mapping = native.Mapping(path)
with open(path, "r+b") as file:
    other = mmap.mmap(file.fileno(), 0)
    os.truncate(path, 0)
    other[5000]
"""
    path = tmp_path / "numbers"
    path.write_bytes(bytes(10_000))
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS


def test_nothing_is_computed_from_a_file_that_is_not_whole(library: Library, tmp_path: Path) -> None:
    """The step raises what ends the server; loading raises what names the file."""
    path = quantized(tmp_path)
    config = open_bundle(read_config(tmp_path)).lm
    model = load_lm(config, path, kernels=library)
    stage = StepperStage(model, 1, TokenIds(), UtteranceRules(frozenset({3}), 13, 750))
    stage.open(0, SamplingParams())
    codes = np.zeros((1, config.n_q - config.dep_q), np.int32)
    stage.step([0], codes)
    os.truncate(path, 4096)
    with pytest.raises(WeightsLostError, match="replace a checkpoint"):
        stage.step([0], codes)


def test_a_file_that_is_cut_short_while_it_is_loaded_is_named(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its header was read, before it is mapped."""
    path = quantized(tmp_path)
    config = open_bundle(read_config(tmp_path)).lm
    header = read_header(path)
    monkeypatch.setattr(native, "read_header", lambda _: header)
    opened = COPIES.open(path)

    def cut(path: Path) -> dict[str, mx.array]:
        os.truncate(path, path.stat().st_size // 2)
        return opened

    monkeypatch.setattr(COPIES, "open", cut)
    with pytest.raises(WeightsError, match="removed or changed while it was read"):
        load_lm(config, path, kernels=library)


def test_a_tensor_between_two_words_is_read(library: Library, tmp_path: Path) -> None:
    """A header may have any length; what it moves off the boundary of its numbers is copied."""
    path = tmp_path / "odd.safetensors"
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    text += b" " * ((1 - len(text)) % 4)
    path.write_bytes(len(text).to_bytes(8, "little") + text + np.float32([1, 2]).tobytes())
    assert read_header(path)["w"].offset % 4 == 1
    tensors = MappedReader(library).open(path)
    assert not is_mapped(path)
    assert tensors["w"].tolist() == [1, 2]


def test_numbers_that_are_not_finite_are_still_found(library: Library, tmp_path: Path) -> None:
    """In scales as in dense weights."""
    path = quantized(tmp_path)
    name, header = next(item for item in read_header(path).items() if item[0].endswith(".scales"))
    with path.open("r+b") as file:
        file.seek(header.offset)
        file.write(b"\xff" * 4)
    with pytest.raises(WeightsError, match=f"{name} holds infinite numbers"):
        load_lm(open_bundle(read_config(tmp_path)).lm, path, kernels=library)


def test_a_tensor_beyond_its_file_is_refused(library: Library, tmp_path: Path) -> None:
    """No array reaches memory that is not the file's."""
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64))
    mapping = library.native.Mapping(str(path))
    for offset, shape, dtype in (
        (0, [1], "float32"),
        (32, [9], "float32"),
        (80, [1], "float32"),
        (34, [1], "float32"),
        (32, [2**31 - 1, 2**31 - 1, 2**31 - 1], "float32"),
        (32, [0], "float32"),
        (32, [1], "int8"),
    ):
        with pytest.raises(ValueError, match="mapped tensor"):
            mapping.tensor(offset, shape, dtype)
    with pytest.raises(RuntimeError, match="No such file"):
        library.native.Mapping(str(tmp_path / "missing"))
