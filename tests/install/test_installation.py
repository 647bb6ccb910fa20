"""What `make install` makes runs without the checkout, under the real systemd, and goes without a trace."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.install.homes import ROOT, Home
from support.install.users_systemd import missing, until, users_systemd


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """`make install` has run in it once, where no service manager answers."""
    made = Home(tmp_path_factory.mktemp("home"))
    made.prepare()
    return made


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def made(home: Home, port: int) -> subprocess.CompletedProcess[str]:
    """What `make install` said."""
    return subprocess.run(
        ["make", "install", f"PYTHON={sys.executable}", "BACKEND=", f"ARGS=--set server.port={port}"],
        cwd=ROOT,
        env={**home.environment, **home.installing},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, from a folder that is nobody's checkout."""
    return subprocess.run(
        [home.command, *arguments],
        cwd="/",
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def in_the_foreground(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """What the unit runs, where it runs it."""
    lines = dict(line.split("=", 1) for line in home.unit.read_text().splitlines() if "=" in line)
    command = shlex.split(lines["ExecStart"])
    with subprocess.Popen(command, cwd=lines["WorkingDirectory"], env=home.environment) as server:
        try:
            yield server
        finally:
            if server.poll() is None:
                server.kill()


def test_without_a_service_manager_the_command_is_there_and_says_so(
    home: Home, made: subprocess.CompletedProcess[str]
) -> None:
    """Make fails at its last step alone, with a sentence; the unit is whole, for when there is a manager."""
    assert made.returncode != 0
    assert "systemd does not answer" in made.stderr or "no systemctl" in made.stderr
    assert "Traceback" not in made.stderr
    assert run(home, "--version").stdout == "0.1.0\n"
    assert run(home, "health", "--help").stdout.startswith("usage: packet-voice health ")
    refused = run(home, "service", "status")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert home.files() == {
        ".local/bin/packet-voice",
        ".config/packet-voice/service.json",
        ".config/systemd/user/packet-voice.service",
    }


def test_the_unit_is_one_that_systemd_takes(home: Home, made: subprocess.CompletedProcess[str]) -> None:
    """`systemd-analyze verify` has nothing to say of it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze (Debian: apt-get install systemd)")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--user", home.unit],
        env={**home.environment, "XDG_RUNTIME_DIR": str(home.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_what_the_unit_runs_serves_the_embedded_model(
    home: Home, port: int, made: subprocess.CompletedProcess[str]
) -> None:
    """From the wheel alone: the pages and their third-party files are in it. SIGTERM ends it with 0."""
    url = f"http://127.0.0.1:{port}"
    assert run(home, "health", "--url", url).returncode == 1
    with in_the_foreground(home) as server:
        until(lambda: run(home, "health", "--url", url).returncode == 0)
        with urllib.request.urlopen(f"{url}/packet-voice") as page:
            assert b"/static/" in page.read()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_a_mistake_is_told_now_and_changes_nothing(
    home: Home, made: subprocess.CompletedProcess[str]
) -> None:
    """A service that could never start is not installed over one that can."""
    before = home.unit.read_bytes()
    refused = run(home, "service", "install", "--set", "server.host=0.0.0.0")
    assert refused.returncode == 2
    assert "pipeline.server.host" in refused.stderr
    assert home.unit.read_bytes() == before


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_service_lives_as_its_manager_says_and_leaves_no_trace(
    home: Home, port: int, made: subprocess.CompletedProcess[str]
) -> None:
    """Installed again it keeps what was chosen; killed it comes back, stopped it stays away; then it goes."""
    url = f"http://127.0.0.1:{port}"
    ready = ("health", "--url", url)
    with users_systemd(home.environment) as user:

        def service(*arguments: str) -> subprocess.CompletedProcess[str]:
            return user.run(str(home.command), "service", *arguments)

        installed = service("install")
        assert installed.returncode == 0, installed.stderr
        assert f"address    {url}" in installed.stdout.splitlines()
        until(lambda: run(home, *ready).returncode == 0)
        assert service("status").returncode == 0
        os.kill(int(user.property("MainPID")), signal.SIGKILL)
        until(lambda: user.property("NRestarts") == "1" and run(home, *ready).returncode == 0)
        assert service("stop").returncode == 0
        assert user.property("ExecMainStatus") == "0"
        assert service("status").returncode == 1
        with socket.create_server(("127.0.0.1", port)):
            assert service("start").returncode == 0
            until(lambda: user.property("ActiveState") == "failed")
            # A taken port: starting again would end the same way.
            assert (user.property("ExecMainStatus"), user.property("NRestarts")) == ("4", "0")
        assert service("restart").returncode == 0
        until(lambda: run(home, *ready).returncode == 0)
        removed = user.run(str(home.command), "uninstall")
        assert removed.returncode == 0, removed.stderr
        assert str(home.config) in removed.stdout
        assert user.property("LoadState") == "not-found"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port)).close()
    home.forget_preparation()
    assert home.files() == {".config/packet-voice/service.json"}
    assert not home.venv.parent.exists()


def test_a_checkout_does_not_uninstall_itself() -> None:
    """What runs is not what `make install` made: it says so, and removes nothing."""
    refused = subprocess.run(
        [sys.executable, "-m", "pipeline", "uninstall"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "nothing was removed" in refused.stderr
    assert Path(sys.prefix).is_dir()
