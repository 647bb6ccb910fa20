"""A checkpoint that is not whole never serves: exit 3, and one sentence that names the culprit."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from support.checkpoints import LM, write_folder

from pipeline.config import read_config
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.quantization import quantize_checkpoint
from pipeline.stages.model_stages import open_stages
from pipeline.system.command import run_command

WIDE = {**LM, "dim": 64, "depformer_dim": 64, "depformer_dim_feedforward": 192}
Tensors = dict[str, mx.array]
VICTIM = "transformer.layers.1.gating.linear_in.weight"


def spoil(value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[VICTIM][5, 7] = value

    return change


def drop(tensors: Tensors) -> None:
    del tensors[VICTIM]


def add(tensors: Tensors) -> None:
    tensors["transformer.layers.9.stray.weight"] = mx.zeros((2, 2))


def reshape(tensors: Tensors) -> None:
    tensors[VICTIM] = tensors[VICTIM].T


def rename(tensors: Tensors) -> None:
    tensors["transformer.layers.1.gating.linear_inn.weight"] = tensors.pop(VICTIM)


def retype(tensors: Tensors) -> None:
    tensors[VICTIM] = tensors[VICTIM].astype(mx.int32)


BAD = {
    "NaN": (spoil(mx.nan), VICTIM),
    "infinite": (spoil(mx.inf), VICTIM),
    "dropped": (drop, f"missing {VICTIM.replace('gating', 'gating.0')}"),
    "added": (add, "unexpected transformer.layers.9.stray.weight"),
    "reshaped": (reshape, f"wrong shape {VICTIM} (expected [352, 64], found [64, 352])"),
    "renamed": (rename, "unexpected transformer.layers.1.gating.linear_inn.weight"),
    "of whole numbers": (retype, f"{VICTIM} (I32)"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path, lm=WIDE)


def sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that loads the folder's language model; it must fail, with exit code 3."""

    def load() -> int:
        open_stages(read_config(folder)).load_stepper()
        return 0

    assert run_command(load) == 3
    stderr = capsys.readouterr().err.strip()
    assert "\n" not in stderr
    assert stderr.startswith(f"{folder / 'model.safetensors'}: ")
    return stderr


@pytest.mark.parametrize(("change", "culprit"), BAD.values(), ids=BAD.keys())
def test_a_tensor_that_is_wrong_is_named(
    folder: Path, change: Callable[[Tensors], None], culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them, wherever it is."""
    path = folder / "model.safetensors"
    tensors = mx.load(str(path))
    change(tensors)
    mx.save_safetensors(str(path), tensors)
    assert culprit in sentence(folder, capsys)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda whole: whole[:-1], "truncated: 1 bytes are missing"),
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda whole: whole[:5], "not a safetensors file"),
        (lambda _: b"", "not a safetensors file"),
        (lambda whole: b"MAGIC" + whole, "not a safetensors file"),
        (lambda whole: whole[:8] + b"[" + whole[9:], "not a safetensors file"),
    ],
)
def test_a_file_that_is_damaged_is_named(
    folder: Path, change: Callable[[bytes], bytes], culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut anywhere, or begun otherwise."""
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    assert culprit in sentence(folder, capsys)


@pytest.mark.parametrize(("words", "scales"), [(4, 8), (8, 4)])
def test_scales_of_another_quantization_are_named(
    folder: Path, words: int, scales: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of one file, the scales and biases of the other: the shapes alone may well agree."""
    path, config = folder / "model.safetensors", parse_lm_config(WIDE)
    tensors = {}
    for bits in (words, scales):
        target = folder / f"q{bits}.safetensors"
        # In groups of one size, so that nothing but the numbers tells.
        tensors[bits] = mx.load(str(quantize_checkpoint(path, target, config, bits, 32).path))
    stem = VICTIM.removesuffix(".weight")
    for part in ("scales", "biases"):
        tensors[words][f"{stem}.{part}"] = tensors[scales][f"{stem}.{part}"]
    mx.save_safetensors(str(path), tensors[words])
    assert f"the scales of {VICTIM} are not those of {words}-bit numbers" in sentence(folder, capsys)


def test_a_server_with_half_a_model_is_never_ready(folder: Path) -> None:
    """Found only while loading, behind an open socket: no session is served, and the process ends with 3."""
    path = folder / "model.safetensors"
    tensors = mx.load(str(path))
    tensors["linears.3.weight"][0, 0] = mx.nan  # the last that is read
    mx.save_safetensors(str(path), tensors)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.run", "--config", str(folder), "--set", f"server.port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    statuses = set()
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=60)
            statuses.add(200)
        except urllib.error.HTTPError as error:
            statuses.add(error.code)
        except OSError:
            time.sleep(0.02)
    assert process.returncode == 3
    assert statuses <= {503}
    stderr = process.stderr.read().strip().splitlines()
    process.stderr.close()
    assert stderr[-1] == f"{path}: linears.3.weight holds infinite numbers, or NaN"
    assert not any("Traceback" in line or '"ready"' in line for line in stderr)


def test_a_file_is_what_its_tensors_are(folder: Path) -> None:
    """A quantized file under the plain name loads as what it is: the name decides nothing."""
    path = folder / "model.safetensors"
    quantize_checkpoint(path, path, parse_lm_config(WIDE), 4)
    open_stages(read_config(folder)).load_stepper()
