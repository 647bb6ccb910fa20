"""`packet-voice COMMAND` and `python -m pipeline COMMAND` run the command of that name."""

import http.server
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.health import check_ready
from pipeline.cli.main import GROUPS, usage

ROOT = Path(__file__).parents[2]
COMMANDS = [name for commands in GROUPS.values() for name in commands]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_command_module_is_a_command() -> None:
    """The command list has every module of `pipeline.cli` with a `main`, and `run`, under its own name."""
    modules = {
        path.stem.replace("_", "-"): path.read_text()
        for path in (ROOT / "pipeline/cli").glob("*.py")
        if "\ndef main(" in path.read_text() and path.stem != "main"
    }
    modules["run"] = (ROOT / "pipeline/run.py").read_text()
    assert set(COMMANDS) == set(modules)
    for name, source in modules.items():
        assert f'program("{name}")' in source, name


@pytest.mark.parametrize("arguments", [("service", "--help"), ("health", "--help"), ("trace", "--help")])
def test_usage_shows_the_command_as_it_was_typed(arguments: tuple[str, ...]) -> None:
    """The program name in the usage can be typed again."""
    assert run(*arguments).stdout.startswith(f"usage: python -m pipeline {arguments[0]}")


def test_only_pipeline_run_requires_a_config() -> None:
    """`python -m pipeline run` falls back to the default one."""
    command = [sys.executable, "-m", "pipeline.run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "--config" in done.stderr) == (2, True)
    assert "(default" in run("run", "--help").stdout


@pytest.mark.parametrize(("old", "new"), [("soak", "loadtest"), ("configuration", "config-reference")])
def test_a_renamed_command_reports_its_new_name(old: str, new: str) -> None:
    """The old name is a usage error that mentions the new one."""
    done = run(old)
    assert done.returncode == 2
    assert new in done.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    """So is a missing one, which prints the list of commands."""
    assert (run("nonsense").returncode, run().returncode, run("--help").returncode) == (2, 2, 0)
    assert run().stderr.strip() == usage()
    assert len(run("nonsense").stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("heath",), "did you mean health?"),
        (("weights", "inspct"), "did you mean inspect?"),
        (("loadtest", "--sesions", "3"), "did you mean --sessions?"),
        (("run", "--config", "configs/tiny", "--set", "port=9000"), "did you mean server.port?"),
        (("run", "--config", "configs/tiny", "--port", "7998"), "use --set server.port=7998"),
        (("run", "--config", "configs/tiny", "--set", "server.hots=x"), "did you mean server.host?"),
        (("run", "--config", "configs/tiny", "--set", "lane.max=2"), "did you mean lanes.max?"),
        (("offline", "in.wav"), "OUT.wav is missing"),
        (("offline",), "IN.wav and OUT.wav are missing"),
    ],
)
def test_what_was_probably_meant_is_named(arguments: tuple[str, ...], meant: str) -> None:
    """Commands, options, keys, and arguments that are missing."""
    done = run(*arguments)
    assert done.returncode == 2
    assert meant in done.stderr


class _ReadyEndpoint(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health/ready" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ReadyEndpoint) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff" * 5000,
        b"\x1b[2J\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 x\r\n\r\n",
        b"",
    ],
)
def test_health_of_another_program_is_a_sentence(answer: bytes) -> None:
    """Whatever it answers, and without what would change the terminal."""

    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            is_ready, sentence = check_ready(f"http://127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
    assert not is_ready
    assert sentence.isprintable()
    assert len(sentence) < 300


def test_health_follows_the_status_of_the_ready_endpoint(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only 200 counts as ready. An HTTP proxy in the environment is ignored."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert check_ready(endpoint)[0]
    monkeypatch.setattr(_ReadyEndpoint, "status", 503)
    assert not check_ready(endpoint)[0]
    assert not check_ready("http://127.0.0.1:1")[0]
