"""`packet-voice COMMAND` is each command, by the name that the user typed."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.health import ask
from pipeline.main import COMMANDS, usage

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_command_of_the_project_is_one_of_its() -> None:
    """Whatever can be run by `python -m pipeline.NAME`; each shows the name that it was called by."""
    commands = {
        path.stem
        for path in (ROOT / "pipeline").glob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text() and path.stem != "__main__"
    }
    assert set(COMMANDS) == commands
    for name in COMMANDS:
        assert f'program("{name}")' in (ROOT / f"pipeline/{name}.py").read_text(), name


@pytest.mark.parametrize("arguments", [("service", "--help"), ("health", "--help"), ("trace", "--help")])
def test_a_command_calls_itself_as_the_user_did(arguments: tuple[str, ...]) -> None:
    """Its help can be typed again."""
    assert run(*arguments).stdout.startswith(f"usage: packet-voice {arguments[0]}")


def test_a_word_that_is_no_command_is_a_usage_error() -> None:
    """Nothing at all is one too, and is shown what there is."""
    assert (run("nonsense").returncode, run().returncode, run("--help").returncode) == (2, 2, 0)
    assert run().stderr.strip() == usage()
    assert len(run("nonsense").stderr.splitlines()) == 1


class _Answering(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health/ready" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def answering() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_health_is_what_the_server_says(answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready is 200 and nothing else; nobody at all is not. A proxy of the environment's is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask(answering)[0]
    monkeypatch.setattr(_Answering, "status", 503)
    assert not ask(answering)[0]
    assert not ask("http://127.0.0.1:1")[0]
