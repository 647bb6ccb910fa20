"""What a checkpoint is, whether it is whole, where it comes from: the command, and serving from a hub."""

import contextlib
import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import trio
from safetensors.numpy import load_file, save_file
from support.local_hub import Hub, pointed_at, serve

from pipeline import backend
from pipeline.audio.sound_file import read_speech
from pipeline.cli import offline, weights
from pipeline.client.session import converse
from pipeline.config import HubAddress, parse_source
from pipeline.kernels.library import Library
from pipeline.loadtest.server_process import start_server
from pipeline.models import random_init
from pipeline.models.checkpoint.formats import MOSHI_V0_1
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.checkpoint.mimi_config import parse_mimi_config
from pipeline.system.command import run_command

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "tests/data/speech.wav"
REPO = "kyutai/small"
WEIGHTS = ("model.safetensors", "mimi.safetensors")

Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `pipeline.cli.weights` in this process: its exit code and JSON output."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = run_command(lambda: weights.main([*map(str, arguments), "--json"]))
        output = capsys.readouterr()
        return code, json.loads(output.out) if output.out else {"stderr": output.err}

    return run


@pytest.fixture
def hub(tmp_path: Path, checkpoint: Path) -> Iterator[Hub]:
    """A local hub with the small checkpoint, used by the client in this process."""
    with serve() as hub, pointed_at(hub.url, tmp_path / "cache"):
        hub.add_folder(REPO, checkpoint)
        yield hub


def changed(checkpoint: Path, folder: Path, **keys: object) -> Path:
    """A copy of the checkpoint with changed config keys; None removes a key."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def test_inspect_describes_a_checkpoint(command: Command, checkpoint: Path) -> None:
    code, report = command("inspect", "--config", checkpoint, "--lanes", 3)
    assert (code, report["problems"]) == (0, [])
    assert report["family"] == "moshi"
    lm = report["lm"]
    header = load_file(checkpoint / "model.safetensors")
    assert lm["parameters"] == sum(tensor.size for tensor in header.values())
    assert lm["stored"] == {"f32": lm["parameters"]}
    assert sum(kind["count"] for kind in lm["tensors"]) == len(header)
    assert (lm["dim"], lm["layers"], lm["codebooks_heard"], lm["codebooks_spoken"]) == (32, 2, 8, 4)
    assert lm["files"] == [
        {"name": "model.safetensors", "bytes": (checkpoint / "model.safetensors").stat().st_size}
    ]
    assert report["memory"]["lanes"] == 3
    assert report["memory"]["lm_bytes"] == 4 * lm["parameters"]


def test_memory_grows_linearly_with_lanes(command: Command, checkpoint: Path) -> None:
    needs = [
        command("inspect", "--config", checkpoint, "--lanes", n)[1]["memory"]["total_bytes"]
        for n in (1, 2, 3)
    ]
    assert needs[1] - needs[0] == needs[2] - needs[1] > 0


def test_inspect_prints_text_by_default(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["inspect", "--config", str(checkpoint), "--lanes", "1"]) == 0
    page = capsys.readouterr().out
    assert all(words in page for words in ("moshi", "layout", "2 layers of 32", "as f32", "1 lane", "free"))


def test_inspect_lists_every_missing_tensor(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    folder = changed(checkpoint, tmp_path / "copy", num_layers=3)
    code, report = command("inspect", "--config", folder)
    (problem,) = report["problems"]
    assert code == 3
    assert report["family"] == "moshi"  # the rest is still reported
    assert problem.count("transformer.layers.2.") > 3


def test_verify_loads_and_runs_the_models(command: Command, checkpoint: Path) -> None:
    code, report = command("verify", "--config", checkpoint)
    assert code == 0
    assert report["frames"] == 2
    assert report["parameters"] > 0


@pytest.mark.parametrize("verb", ["verify", "fetch"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_tensor_is_named(
    command: Command, checkpoint: Path, tmp_path: Path, verb: str, name: str
) -> None:
    folder = changed(checkpoint, tmp_path / "copy")
    tensors = load_file(folder / name)
    dropped = sorted(tensors)[3]
    del tensors[dropped]
    save_file(tensors, folder / name)
    code, report = command(verb, "--config", folder)
    assert code == 3
    assert f"{name}: missing" in report["stderr"]


def test_a_folder_without_a_config_is_moshi_7b(command: Command, tmp_path: Path) -> None:
    """Only the headers exist, as nothing else is read. Memory matches docs/reference/models.md."""
    lm, mimi = parse_lm_config(MOSHI_V0_1), parse_mimi_config({})
    write_header(tmp_path / "model.safetensors", random_init.lm_tensors(lm))
    mimi_name = "tokenizer-e351c8d8-checkpoint125.safetensors"
    write_header(tmp_path / mimi_name, random_init.mimi_tensors(mimi))
    code, report = command("inspect", "--config", tmp_path, "--lanes", 1)
    assert (code, report["problems"]) == (0, [])
    assert round(report["lm"]["parameters"] / 1e9, 2) == 7.69
    assert report["lm"]["delay_ms"] == 80
    (row,) = re.findall(
        r"^\| `kyutai/moshiko-mlx-bf16`.*\| ([\d.]+) \+ [\d.]+ \| ([\d.]+) \+ [\d.]+ \|$",
        (ROOT / "docs/reference/models.md").read_text(),
        re.MULTILINE,
    )
    if isinstance(backend.kernels(), Library):
        documented_gib = row[1]
    else:
        documented_gib = "35.5" if backend.prepare().device == "cpu" else row[0]
    assert f"{report['memory']['total_bytes'] / 2**30:.1f}" == documented_gib


def write_header(path: Path, tensors: Iterator[tuple[str, tuple[int, ...]]]) -> None:
    """Write a bfloat16 checkpoint as a header and a sparse hole for the values."""
    header, end = {}, 0
    for name, shape in tensors:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_fetch_reports_the_paths_of_the_files(
    command: Command, hub: Hub, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = command("fetch", "--config", f"hf://{REPO}")
    assert code == 0
    for key, name in zip(("moshi_name", "mimi_name"), WEIGHTS, strict=True):
        file = report["files"][key]
        assert Path(file["path"]).read_bytes() == (checkpoint / name).read_bytes()
        assert file["bytes"] == (checkpoint / name).stat().st_size
    hub.down = True
    assert weights.main(["fetch", "--config", f"hf://{REPO}"]) == 0
    assert "using the cached copy" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_a_notice_that_cannot_be_written_costs_nothing(
    command: Command, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stderr on a full disk, the cached copy is used all the same."""
    assert command("fetch", "--config", f"hf://{REPO}")[0] == 0
    hub.down = True
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stderr", full)
            assert command("fetch", "--config", f"hf://{REPO}")[0] == 0
        with contextlib.suppress(OSError):
            full.close()


def test_progress_bars_are_shown_on_terminals_only(hub: Hub, tmp_path: Path) -> None:
    """In a subprocess, because a process checks its stderr once, at start-up."""
    command = [sys.executable, "-m", "pipeline", "weights", "fetch", "--config", f"hf://{REPO}"]
    shown = {}
    for kind in ("terminal", "file"):
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / kind)}
        ours, theirs = pty.openpty() if kind == "terminal" else os.pipe()
        if kind == "terminal":
            termios.tcsetwinsize(ours, (24, 100))
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=theirs
        ) as process:
            os.close(theirs)
            shown[kind] = read_all(ours)
            assert process.wait(60) == 0
        os.close(ours)
    assert b"model.safetensors" in shown["terminal"]
    assert b"100%" in shown["terminal"]
    assert shown["file"] == b""


def read_all(descriptor: int) -> bytes:
    output = b""
    with contextlib.suppress(OSError):  # reading a terminal fails once its other end is closed
        while piece := os.read(descriptor, 65_536):
            output += piece
    return output


COMMANDS = re.findall(
    r"^packet-voice weights (.*configs/tiny.*)$",
    (ROOT / "docs/reference/weights.md").read_text(),
    re.MULTILINE,
)


def test_the_documentation_has_commands() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_documentation_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert weights.main(line.split()) == 0


def sentencepiece_model(folder: Path, pieces: int) -> Path:
    """Train a real tokenizer with `pieces` pieces."""
    path = folder / "spm.model"
    words = (f"{a}{b}{c}" for a in "ptkbdg" for b in "aeiou" for c in "mnlrsz")
    text = iter([" ".join(words)] * 3)
    trainer = sentencepiece.SentencePieceTrainer
    with path.open("wb") as file:
        trainer.train(sentence_iterator=text, model_writer=file, vocab_size=pieces, minloglevel=2)
    return path


def test_a_tokenizer_of_the_wrong_size_is_refused(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    folder = changed(checkpoint, tmp_path / "copy", tokenizer_name="spm.model")
    code, report = command("verify", "--config", folder)
    assert code == 3
    assert "spm.model: no such file (tokenizer_name)" in report["stderr"]
    sentencepiece_model(folder, 40)
    code, report = command("inspect", "--config", folder)
    assert (code, report["tokenizer"]) == (0, "spm.model")
    sentencepiece_model(folder, 38)
    for verb in ("verify", "inspect"):
        code, report = command(verb, "--config", folder)
        assert code == 3
        assert "38 pieces, but the model's text_card is 40" in str(report)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_folder_is_a_valid_checkpoint(
    command: Command, checkpoint: Path, tmp_path: Path, bits: int
) -> None:
    code, report = command(
        "quantize", "--config", checkpoint, "--bits", bits, "--group", 32, tmp_path / "out"
    )
    assert code == 0, report
    assert report["quantized"] > 0
    code, inspected = command("inspect", "--config", tmp_path / "out")
    assert (code, inspected["problems"]) == (0, [])
    assert inspected["lm"]["stored"][f"{bits} bits / 32"] > 0
    code, _ = command("verify", "--config", tmp_path / "out")
    assert code == 0
    code, again = command("quantize", "--config", checkpoint, "--bits", bits, tmp_path / "out")
    assert code == 2
    assert "already exists and is not empty" in again["stderr"]


def test_a_cpu_with_kernels_is_advised_to_take_4_bits(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    """Unless the checkpoint has them; what the kernels do not compute with says so."""
    if not isinstance(backend.kernels(), Library):
        pytest.skip("needs native kernels")
    assert "4 bits are fastest" in command("inspect", "--config", checkpoint)[1]["advice"]
    quantize = ("quantize", "--config", checkpoint, "--group", 32)
    assert "4 bits are fastest" in command(*quantize, "--bits", 8, tmp_path / "8")[1]["advice"]
    assert command(*quantize, "--bits", 4, tmp_path / "4")[1]["advice"] is None
    assert command("inspect", "--config", tmp_path / "4")[1]["advice"] is None
    without = command("inspect", "--config", tmp_path / "4", "--set", "kernels=off")[1]
    assert "makes float32 of them" in without["advice"]


def test_random_weights_cannot_be_quantized(command: Command, tmp_path: Path) -> None:
    code, report = command("quantize", "--config", ROOT / "tests/data/untrained", tmp_path / "out")
    assert code == 2
    assert "made from a seed" in report["stderr"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://kyutai/hibiki-1b-mlx-bf16", HubAddress("kyutai/hibiki-1b-mlx-bf16")),
        ("hf://kyutai/a.b@v1.0", HubAddress("kyutai/a.b", "v1.0")),
        ("hf://kyutai/a@refs%2Fpr%2F1", HubAddress("kyutai/a", "refs/pr/1")),
        ("configs/tiny", Path("configs/tiny")),
    ],
)
def test_parsing_and_printing_a_source_are_inverse(text: str, address: object) -> None:
    assert parse_source(text) == address
    assert str(parse_source(text)) == text


def test_a_server_downloads_from_a_hub_and_then_uses_the_cache(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files come through the real client; the second start is offline."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    source = parse_source(f"hf://{REPO}")
    speech = read_speech(SPEECH)[: 24_000 // 2]
    with start_server(source) as server:
        report = trio.run(converse, server.socket_url, speech)
        assert report.model is not None
        assert (report.model.name, report.model.trained) == (REPO, True)
        assert report.frames_out > 0
    fetched = dict(hub.sent_bytes)
    assert fetched.keys() >= {"config.json", "mimi_config.json", *WEIGHTS}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with start_server(source) as server:
        assert server.get("/weights")[1]["name"] == REPO
    assert hub.sent_bytes == fetched


def test_a_downloaded_checkpoint_gives_the_same_output_as_the_folder(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    """The download is interrupted once and resumed."""
    hub.cut |= set(WEIGHTS)
    traces = []
    for config in (checkpoint, f"hf://{REPO}@{hub.head(REPO)}"):
        trace = tmp_path / "trace.npz"
        arguments = ("--config", config, "--greedy", "--trace", trace, SPEECH, tmp_path / "out.wav")
        assert offline.main([*map(str, arguments)]) == 0
        traces.append(dict(np.load(trace)))
    assert not hub.cut
    assert all(np.array_equal(traces[0][name], traces[1][name]) for name in traces[0])


def test_a_wrong_checkpoint_is_refused_before_its_weights_are_downloaded(
    command: Command, hub: Hub, tmp_path: Path, checkpoint: Path
) -> None:
    tensors = load_file(checkpoint / "model.safetensors") | {"padding": np.zeros(2**20, np.float32)}
    save_file(tensors, tmp_path / "padded.safetensors")
    hub.add("kyutai/large", {"model.safetensors": tmp_path / "padded.safetensors"})
    hub.add("kyutai/large", {name: checkpoint / name for name in ("config.json", "mimi_config.json")})
    hub.add("kyutai/large", {"mimi.safetensors": checkpoint / "mimi.safetensors"})
    for verb in ("inspect", "fetch", "verify"):
        code, report = command(verb, "--config", "hf://kyutai/large")
        assert code == 3
        assert "hf://kyutai/large/model.safetensors: unexpected padding" in str(report)
    assert hub.sent_bytes["model.safetensors"] < 4 * 2**20


def test_a_model_without_speech_output_is_refused_before_its_weights_are_downloaded(
    command: Command, hub: Hub, checkpoint: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    hub.add(REPO, {"config.json": json.dumps(config | {"model_type": "stt", "dep_q": 0}).encode()})
    code, report = command("fetch", "--config", f"hf://{REPO}")
    assert code == 3
    assert f"hf://{REPO}: a speech recognition model" in report["stderr"]
    assert not hub.sent_bytes.keys() & set(WEIGHTS)


def test_the_environment_names_the_weights_of_a_bare_architecture(
    command: Command, hub: Hub, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LM_REPO and MIMI_REPO or MIMI_LOCAL complete a config without weights."""
    for name in WEIGHTS:
        hub.add(f"kyutai/{name.split('.')[0]}", {"model.safetensors": checkpoint / name})
    folder = changed(checkpoint, tmp_path / "copy", moshi_name=None, mimi_name=None)
    for name in WEIGHTS:
        (folder / name).unlink()
    code, report = command("verify", "--config", folder)
    assert code == 3
    assert report["stderr"].endswith("(moshi_name); LM_REPO may name a repository that has it\n")
    monkeypatch.setenv("LM_REPO", "kyutai/model")
    monkeypatch.setenv("MIMI_REPO", "kyutai/mimi")
    assert command("verify", "--config", folder)[0] == 0
    monkeypatch.delenv("MIMI_REPO")
    monkeypatch.setenv("MIMI_LOCAL", str(checkpoint / "mimi.safetensors"))
    assert command("verify", "--config", folder)[0] == 0


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ("hf://kyutai/smal", 3, "no such repository"),
        ("hf://kyutai", 2, "hf://org/repo[@revision]"),
        ("hf://kyutai/small/model.safetensors", 2, "name the repository"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_wrong_address_is_reported_in_one_sentence(
    command: Command, config: str, code: int, message: str
) -> None:
    exit_code, report = command("fetch", "--config", config)
    assert exit_code == code
    (sentence,) = report["stderr"].splitlines()
    assert message in sentence
