"""`pipeline.run` as a real process: speech over a socket, signals, and every start-up error."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trio

from pipeline.audio.sound_file import read_speech
from pipeline.client.report import Report
from pipeline.client.session import converse
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.protocol.metadata import Configure

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests/data/speech.wav"
UNTRAINED = ROOT / "tests/data/untrained"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with random weights in a separate cache; such a model always produces output."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("HOME", str(cache))
        with start_server(UNTRAINED) as running:
            yield running


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def talk(server: ServerProcess, seconds: float, **sampling: float) -> Report:
    speech = read_speech(SPEECH)[: round(24_000 * seconds)]
    configure = Configure(**sampling) if sampling else None
    return trio.run(partial(converse, server.socket_url, speech, configure=configure))


def test_speech_is_answered_frame_by_frame_in_order(server: ServerProcess) -> None:
    report = talk(server, seconds=2)
    assert report.frames_in == 25
    assert report.model is not None
    assert report.frames_out == report.frames_in - report.model.model_delay_ms // 80
    assert report.in_order
    assert report.close == 1000
    assert not report.errors
    assert report.text  # token ids: there is no tokenizer


# Prints how many objects a full garbage collection looks at, and how many it leaves out.
COLLECTED = """
import gc, signal, sys

def show(*_):
    print("objects", len(gc.get_objects()), gc.get_freeze_count(), file=sys.stderr, flush=True)

signal.signal(signal.SIGUSR1, show)
from pipeline.run import run_and_exit

run_and_exit()
"""


def test_garbage_collection_does_not_look_at_modules_and_models() -> None:
    """A full one holds the interpreter lock, so that every session waits for it."""
    with start_server(UNTRAINED, program=("-c", COLLECTED)) as running:
        talk(running, seconds=0.4)
        os.kill(running.pid, signal.SIGUSR1)
        while not (lines := [line for line in running.logged().splitlines() if line.startswith("objects ")]):
            running.get("/health/live")
        collected, left_out = map(int, lines[0].split()[1:])
    assert collected < left_out / 4


def test_random_weights_are_reported_as_untrained(server: ServerProcess) -> None:
    report = talk(server, seconds=0.4)
    assert report.model is not None
    assert not report.model.trained
    _, weights = server.get("/weights")
    assert weights["trained"] is False
    _, health = server.get("/health")
    assert health["model"]["trained"] is False


def test_two_concurrent_clients_get_the_same_answers_as_alone(server: ServerProcess) -> None:
    greedy = {"temperature": 0.0, "text_temperature": 0.0}
    alone = [talk(server, seconds=1.5, **greedy), talk(server, seconds=1.5, temperature=0.9, seed=4)]
    together: list[Report] = []

    async def both() -> None:
        speech = read_speech(SPEECH)[: round(24_000 * 1.5)]

        async def one(configure: Configure) -> None:
            together.append(await converse(server.socket_url, speech, configure=configure))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, Configure(**greedy))
            nursery.start_soon(one, Configure(temperature=0.9, seed=4))

    trio.run(both)
    assert {r.text for r in together} == {r.text for r in alone}
    assert alone[0].text != alone[1].text


def test_health_reports_stages_and_queues(server: ServerProcess) -> None:
    talk(server, seconds=0.8)
    status, health = server.get("/health")
    assert status == 200
    assert health["readiness"] == {"lm": True, "mimi": True}
    assert health["backend"]["device"] in {"cpu", "cuda", "metal"}
    for stage in ("encode", "step", "decode"):
        assert health["metrics"][stage]["count"] > 0
        assert health["metrics"][stage]["p50"] > 0
    assert health["metrics"]["queues"]
    for queue in health["metrics"]["queues"].values():
        assert queue["sent"] == queue["taken"] + queue["leaked"] + queue["depth"]


def test_the_talk_command_writes_the_answer(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "answer.wav"
    command = [sys.executable, "-m", "pipeline", "talk", "--url", server.socket_url]
    command += ["--in", str(SPEECH), "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    report = json.loads(done.stdout.strip().splitlines()[-1])
    pcm, rate_hz = soundfile.read(out)
    assert rate_hz == 24_000
    assert len(pcm) == 1920 * report["frames_out"] > 0
    assert np.std(pcm) > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_exit_code_depends_on_the_signal(checkpoint: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "pipeline.run", "--config", str(checkpoint), "--set", "server.port=0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = (json.loads(line) for line in process.stderr)
        assert any(event["event"] == "ready" for event in events)
        process.send_signal(number)
        process.stderr.read()
    assert process.returncode == code


def test_on_a_terminal_the_server_says_what_to_open(checkpoint: Path) -> None:
    """Once it is ready, and how to stop it: whoever typed `make run` sees that."""
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "pipeline.run", "--config", str(checkpoint), "--set", "server.port=0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=terminal) as process, os.fdopen(ours, "rb") as shown:
        os.close(terminal)
        lines = []
        with contextlib.suppress(OSError):  # which is the end of a terminal
            for line in iter(shown.readline, b""):
                lines.append(line.strip())
                if b"model_delay_ms" in line:  # it is ready
                    process.terminate()
    (line,) = (line for line in lines if line.startswith(b"Open "))
    page = rb"Open http://127\.0\.0\.1:\d+/packet-voice in a browser\. Ctrl-C stops the server\."
    assert re.fullmatch(page, line)


def failed(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert all(word in sentence for word in words), sentence
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_exit_code_4(checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        failed(run("--config", str(checkpoint), "--set", f"server.port={port}"), 4, port, "in use")


def test_a_port_in_use_by_a_server_of_this_project_is_told(
    server: ServerProcess, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command to choose another, for the way this one was started."""
    port = f"server.port={server.port}"
    done = run("--config", str(checkpoint), "--set", port)
    failed(done, 4, "by another server of this project", f"the option --set server.port={server.port + 1}")
    monkeypatch.setenv("PACKET_VOICE_STARTED_BY", "make")
    done = run("--config", str(checkpoint), "--set", port)
    failed(done, 4, f'make run ARGS="--set server.port={server.port + 1}"')


def test_a_configuration_error_is_exit_code_2(checkpoint: Path, tmp_path: Path) -> None:
    failed(run("--config", str(tmp_path / "absent.json")), 2, "absent.json", "no such file")
    failed(run("--config", str(checkpoint), "--set", "server.prot=1"), 2, "pipeline.server", "prot")
    failed(run("--config", str(checkpoint), "--set", "server.host=0.0.0.0"), 2, "server.host", "TLS")
    assert run("--config").returncode == 2
    config = json.loads((checkpoint / "config.json").read_text())
    for key, value in (("dimm", 3), ("dim", "wide"), ("n_q", None)):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        failed(run("--config", str(tmp_path)), 2, key)


def test_a_weights_error_is_exit_code_3_before_a_socket_opens(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    model = folder / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-100])
    failed(run("--config", str(folder)), 3, "model.safetensors", "truncated")
    model.write_bytes(b"GGUF" + whole)
    failed(run("--config", str(folder)), 3, "model.safetensors", "a GGUF file")
    model.write_bytes(b"what" + whole)
    failed(run("--config", str(folder)), 3, "model.safetensors", "not a safetensors file")
    model.unlink()
    failed(run("--config", str(folder)), 3, "model.safetensors", "no such file")
    model.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    failed(run("--config", str(folder)), 3, "transformer.layers.2.", "missing")
    (folder / "config.json").write_text(json.dumps({**config, "dim": 64}))
    failed(run("--config", str(folder)), 3, "text_emb.weight", "expected [41, 64]", "found [41, 32]")


def test_a_read_only_checkout_works(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(UNTRAINED, tmp_path / "tiny"))
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pipeline", "offline", "--config", str(folder), "--greedy"]
    command += [str(SPEECH), str(tmp_path / "answer.wav")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "mimi_config.json"]
    assert (tmp_path / "answer.wav").stat().st_size > 44
