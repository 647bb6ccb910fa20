"""`--lan` starts a server for other devices, with its own certificate and token."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.cli import invite
from pipeline.lan.addresses import Hosts

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "tests/data/speech.wav"
# The address of this machine on the network, or loopback if it has no network.
HOST = next(iter(Hosts.of("0.0.0.0").external("0.0.0.0")), "127.0.0.1")


@dataclass(frozen=True)
class Started:
    """A ready server, its log events so far, and the folder of its credentials."""

    process: subprocess.Popen[str]
    events: list[dict[str, object]]
    folder: Path

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text().strip()

    def event(self, name: str) -> dict[str, object]:
        return next(each for each in self.events if each["event"] == name)


@contextmanager
def started(checkpoint: Path, folder: Path) -> Iterator[Started]:
    """Run `python -m pipeline.run --lan` without a terminal, as a service does."""
    command = [sys.executable, "-m", "pipeline.run", "--config", str(checkpoint), "--lan"]
    command += ["--set", "server.port=0", "--set", f"server.tls_folder={folder}"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = []
        for line in process.stderr:
            events.append(json.loads(line))  # every line is JSON: the invitation is printed on terminals only
            if events[-1]["event"] == "ready":
                break
        try:
            yield Started(process, events, folder)
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(checkpoint, tmp_path_factory.mktemp("let_in") / "lan") as server:
        yield server


def talk(server: Started, *trust: str) -> subprocess.CompletedProcess[str]:
    port = str(server.event("listening")["url"]).rpartition(":")[2]
    command = [sys.executable, "-m", "pipeline", "talk", "--url", f"wss://{HOST}:{port}/ws", "--json", *trust]
    command += ["--in", str(SPEECH)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_client_with_authority_and_token_connects_from_the_network(server: Started) -> None:
    """The flag is the only configuration."""
    trust = ("--ca", str(server.folder / "authority.crt"), "--token-file", str(server.folder / "token"))
    done = talk(server, *trust)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["frames_out"] > 0


def test_a_client_without_authority_or_token_gets_the_reason(server: Started) -> None:
    """Without the authority TLS fails; without the token the server refuses."""
    assert "TLS failed" in talk(server, "--token-file", str(server.folder / "token")).stderr
    assert "requires a token" in talk(server, "--ca", str(server.folder / "authority.crt")).stderr


def test_the_log_describes_the_certificate_and_hides_the_token(server: Started) -> None:
    """It has the fingerprint, the hosts and the folder."""
    logged = server.event("certificate")
    assert logged["made"] == ["authority", "certificate", "token"]
    assert logged["folder"] == str(server.folder)
    assert HOST in logged["hosts"]  # type: ignore[operator]
    assert len(str(logged["fingerprint"]).split(":")) == 32
    assert not any(server.token in json.dumps(event) for event in server.events)


def test_the_log_names_the_command_that_shows_the_link(server: Started) -> None:
    """With the configuration of this server: no log contains the token."""
    command = str(server.event("ready")["invite"])
    assert " invite " in command
    assert f"--set server.tls_folder={server.folder}" in command
    assert command.endswith("--lan")


def test_the_invitation_can_be_printed_later(
    server: Started, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`invite` prints the same fingerprint and a link with the same token."""
    arguments = ["--config", str(checkpoint), "--lan", "--set", f"server.tls_folder={server.folder}"]
    assert invite.main(arguments) == 0
    output = capsys.readouterr().out
    assert str(server.event("certificate")["fingerprint"]) in output
    port = server.event("listening")["url"].rpartition(":")[2]  # type: ignore[attr-defined]
    if HOST != "127.0.0.1":
        assert f"https://{HOST}:{port}/packet-voice#token={server.token}" in output  # of the server that runs


def test_an_invitation_follows_the_configured_port_and_no_server_that_has_gone(
    server: Started, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The port that a server left behind counts only while it answers there."""
    arguments = ["--config", str(checkpoint), "--lan", "--set", f"server.tls_folder={server.folder}"]
    noted = server.folder / "port"
    kept = noted.read_bytes()
    try:
        assert invite.main([*arguments, "--set", "server.port=7998"]) == 0
        assert ":7998/authority.crt" in capsys.readouterr().out or HOST == "127.0.0.1"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            gone = taken.getsockname()[1]
        noted.write_text(str(gone))
        assert invite.main(arguments) == 0
        assert f":{gone}/" not in capsys.readouterr().out
    finally:
        noted.write_bytes(kept)


def test_the_log_names_an_address_that_can_be_opened(server: Started) -> None:
    """Not the wildcard that the server is bound to."""
    opened = str(server.event("ready")["open"])
    assert "0.0.0.0" not in opened
    assert opened.startswith(f"https://{HOST if HOST != '127.0.0.1' else 'localhost'}:")


def test_a_server_on_loopback_has_no_invitation(checkpoint: Path) -> None:
    """The error mentions --lan."""
    command = [sys.executable, "-m", "pipeline", "invite", "--config", str(checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--lan" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_set_takes_precedence_over_lan(checkpoint: Path, tmp_path: Path) -> None:
    """In any order on the command line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "pipeline.run", "--config", str(checkpoint)]
        command += ["--set", "server.host=127.0.0.1", "--set", f"server.port={port}", "--lan"]
        command += ["--set", f"server.tls_folder={tmp_path / 'lan'}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert f"127.0.0.1:{port} is in use" in done.stderr
    assert (tmp_path / "lan" / "server.pem").exists()
    assert not (tmp_path / "lan" / "token").exists()
