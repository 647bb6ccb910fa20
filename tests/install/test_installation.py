"""An installation runs without the checkout and under the real systemd, and uninstalls completely."""

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
    """A home folder for `make install`, without a service manager."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.prepare()
    return home


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def make_install(home: Home, port: int) -> subprocess.CompletedProcess[str]:
    """The result of `make install`."""
    return installed(home, port)


def installed(home: Home, port: int) -> subprocess.CompletedProcess[str]:
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
    """Run the installed command, outside any checkout."""
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
    """Run the command of the unit file in its working folder."""
    lines = dict(line.split("=", 1) for line in home.unit.read_text().splitlines() if "=" in line)
    command = shlex.split(lines["ExecStart"])
    with subprocess.Popen(command, cwd=lines["WorkingDirectory"], env=home.environment) as server:
        try:
            yield server
        finally:
            if server.poll() is None:
                server.kill()


def test_without_a_service_manager_make_install_fails_after_installing_the_command(
    home: Home, make_install: subprocess.CompletedProcess[str]
) -> None:
    """Only the last step fails, with one sentence; the unit file is complete for a later start."""
    assert make_install.returncode != 0
    assert (
        "cannot reach this user's systemd" in make_install.stderr
        or "systemctl was not found" in make_install.stderr
    )
    assert "Traceback" not in make_install.stderr
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


def test_systemd_accepts_the_unit_file(home: Home, make_install: subprocess.CompletedProcess[str]) -> None:
    """`systemd-analyze verify` reports nothing."""
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


def test_the_command_of_the_unit_file_serves_the_embedded_model(
    home: Home, port: int, make_install: subprocess.CompletedProcess[str]
) -> None:
    """The wheel contains the pages and their third-party files. SIGTERM ends the server with exit code 0."""
    url = f"http://127.0.0.1:{port}"
    assert run(home, "health", "--url", url).returncode == 1
    with in_the_foreground(home) as server:
        until(lambda: run(home, "health", "--url", url).returncode == 0)
        with urllib.request.urlopen(f"{url}/packet-voice") as page:
            assert b"/static/" in page.read()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_invalid_options_are_refused_before_anything_changes(
    home: Home, make_install: subprocess.CompletedProcess[str]
) -> None:
    """A service that could not start does not replace a working one."""
    before = home.unit.read_bytes()
    refused = run(home, "service", "install", "--set", "server.host=0.0.0.0")
    assert refused.returncode == 2
    assert "pipeline.server.host" in refused.stderr
    assert home.unit.read_bytes() == before


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_service_survives_a_crash_stops_on_command_and_uninstalls_completely(
    home: Home, port: int, make_install: subprocess.CompletedProcess[str]
) -> None:
    """A new installation keeps the saved options."""
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
            # Port in use: a restart would fail the same way.
            assert (user.property("ExecMainStatus"), user.property("NRestarts")) == ("4", "0")
        assert service("restart").returncode == 0
        until(lambda: run(home, *ready).returncode == 0)
        removed = user.run(str(home.command), "uninstall")
        assert removed.returncode == 0, removed.stderr
        assert user.property("LoadState") == "not-found"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port)).close()
    home.undo_preparation()
    assert home.files() == set()
    assert not home.config.exists()
    assert not home.venv.parent.exists()


def test_without_a_service_manager_uninstall_leaves_nothing(tmp_path: Path, port: int) -> None:
    """No service can be running, so there is nothing to fail: the exit code is 0."""
    home = Home(tmp_path)
    home.prepare()
    installed(home, port)
    removed = run(home, "uninstall")
    assert removed.returncode == 0, removed.stderr
    home.undo_preparation()
    assert home.files() == set()
    assert not home.config.exists()
    assert not home.venv.parent.exists()


def test_a_checkout_cannot_be_uninstalled() -> None:
    """Outside an installation the command fails and removes nothing."""
    refused = subprocess.run(
        [sys.executable, "-m", "pipeline", "uninstall"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "nothing was removed" in refused.stderr
    assert Path(sys.prefix).is_dir()
