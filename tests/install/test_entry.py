"""`packet-voice COMMAND` is each command, by the name that the user typed."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.health import ask
from pipeline.cli.main import GROUPS, usage

ROOT = Path(__file__).parents[2]
COMMANDS = [name for commands in GROUPS.values() for name in commands]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_command_module_is_a_command() -> None:
    """Whatever in `pipeline.cli` has a `main(arguments)`, and `run`; each shows the name it is called by."""
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
def test_a_command_shows_how_the_user_called_it(arguments: tuple[str, ...]) -> None:
    """What its usage shows can be typed again."""
    assert run(*arguments).stdout.startswith(f"usage: python -m pipeline {arguments[0]}")


@pytest.mark.parametrize(("old", "new"), [("soak", "loadtest"), ("configuration", "config-reference")])
def test_a_renamed_command_names_its_successor(old: str, new: str) -> None:
    """Whoever types the former name is told the present one, and nothing runs."""
    done = run(old)
    assert done.returncode == 2
    assert new in done.stderr


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
