"""One flag lets other machines in: a real server with a certificate and a token of its own."""

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
from pipeline.lan.addresses import Reach

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "tests/data/speech.wav"
# This machine as another one would call it; where it has no network, as it calls itself.
HOST = next(iter(Reach.of("0.0.0.0").hosts_elsewhere("0.0.0.0")), "127.0.0.1")


@dataclass(frozen=True)
class Started:
    """A server that is ready, what it logged until then, and its folder."""

    process: subprocess.Popen[str]
    events: list[dict[str, object]]
    folder: Path

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text().strip()

    def told(self, event: str) -> dict[str, object]:
        return next(each for each in self.events if each["event"] == event)


@contextmanager
def started(checkpoint: Path, folder: Path) -> Iterator[Started]:
    """`python -m pipeline.run --lan`, as a service runs it: nobody sees its stderr."""
    command = [sys.executable, "-m", "pipeline.run", "--config", str(checkpoint), "--lan"]
    command += ["--set", "server.port=0", "--set", f"server.tls_folder={folder}"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = []
        for line in process.stderr:
            events.append(json.loads(line))  # every line is one: no invitation where tools read
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
    port = str(server.told("listening")["url"]).rpartition(":")[2]
    command = [sys.executable, "-m", "pipeline", "talk", "--url", f"wss://{HOST}:{port}/ws", "--json", *trust]
    command += ["--in", str(SPEECH)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_flag_is_enough(server: Started) -> None:
    """Who brings the authority and the token is answered, at an address that is not loopback's."""
    trust = ("--ca", str(server.folder / "authority.crt"), "--token-file", str(server.folder / "token"))
    done = talk(server, *trust)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["frames_out"] > 0


def test_who_brings_less_is_told_why(server: Started) -> None:
    """Without the authority TLS fails; without the token the server refuses."""
    assert "TLS failed" in talk(server, "--token-file", str(server.folder / "token")).stderr
    assert "wants its token" in talk(server, "--ca", str(server.folder / "authority.crt")).stderr


def test_the_log_tells_what_it_may(server: Started) -> None:
    """Fingerprint, names, end and place of the certificate; nowhere the token."""
    told = server.told("certificate")
    assert told["made"] == ["authority", "certificate", "token"]
    assert told["folder"] == str(server.folder)
    assert HOST in told["hosts"]  # type: ignore[operator]
    assert len(str(told["fingerprint"]).split(":")) == 32
    assert not any(server.token in json.dumps(event) for event in server.events)


def test_an_invitation_can_be_had_later(
    server: Started, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a server nobody saw starting: the same fingerprint, and a link with its token."""
    arguments = ["--config", str(checkpoint), "--lan", "--set", f"server.tls_folder={server.folder}"]
    assert invite.main(arguments) == 0
    said = capsys.readouterr().out
    assert str(server.told("certificate")["fingerprint"]) in said
    if HOST != "127.0.0.1":
        assert f"https://{HOST}:8788/packet-voice#token={server.token}" in said


def test_there_is_no_invitation_to_what_lets_nobody_in(checkpoint: Path) -> None:
    """A server of this machine alone has nothing to show, and says how it would."""
    command = [sys.executable, "-m", "pipeline", "invite", "--config", str(checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--lan" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_set_goes_over_the_flag(checkpoint: Path, tmp_path: Path) -> None:
    """`--lan` is where to start from, wherever it stands on the line."""
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
