"""HAProxy with the committed configuration, `configs/haproxy.cfg`, as in production.

It listens on loopback, on ports of its own, and can be stopped with any signal and started again.

Neighbours: `cluster` starts the servers behind it. What does not belong here: what clients do.
"""

import csv
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pipeline.loadtest.server_process import STOP_TIMEOUT_S, ServerStartError, free_port

HAPROXY: Final = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin")
CONFIGURATION: Final = Path(__file__).parents[2] / "configs/haproxy.cfg"
BACKENDS: Final = ("lanes", "queue", "any")  # of that file, each with checks of its own
TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ReplicaPorts:
    """The ports of one replica, and its name in the configuration."""

    number: int
    port: int
    agent_port: int

    @property
    def name(self) -> str:
        """The name in the configuration, which is also the prefix of its resume tokens."""
        return f"r{self.number}"


@dataclass(frozen=True, slots=True)
class ServerState:
    """The state of a replica in one backend."""

    status: str
    weight: int

    @property
    def is_up(self) -> bool:
        """Whether its health checks pass."""
        return self.status.startswith("UP")

    @property
    def accepts_sessions(self) -> bool:
        """Whether new sessions are sent to it."""
        return self.is_up and self.weight > 0


class Balancer:
    """HAProxy in front of `replicas`; `folder` is for its command socket."""

    def __init__(self, replicas: Sequence[ReplicaPorts], folder: Path, log: IO[str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._socket = folder / "haproxy.sock"
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._environment = {
            "BALANCER_BIND": f"127.0.0.1:{self.port}",
            "BALANCER_METRICS_BIND": f"127.0.0.1:{free_port()}",
            "BALANCER_SOCKET": str(self._socket),
            "BALANCER_PER_ADDRESS": "100000",  # all clients have the same address here
        }
        for each in replicas:
            address = f"127.0.0.1:{each.port} agent-port {each.agent_port}"
            self._environment[f"REPLICA_{each.number}"] = address

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it, unless it is running, and wait until it listens.

        Raises:
            ServerStartError: it is not installed, or rejects its configuration.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if HAPROXY is None:
            raise ServerStartError("haproxy is not installed (Debian: apt-get install haproxy)")
        command = [HAPROXY, "-db", "-f", str(CONFIGURATION)]
        environment = os.environ | self._environment
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=self._log, stderr=self._log, text=True
        )
        wait_until(self._listens, lambda: f"haproxy does not listen: {self.logged()[-500:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it with a signal, and wait until it has exited."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(STOP_TIMEOUT_S)

    def logged(self) -> str:
        """Everything it has logged so far."""
        size_bytes = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size_bytes, 0).decode(errors="replace")

    def command(self, line: str) -> str:
        """Send a line to its command socket; the response."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{line}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def server_states(self, backend: str) -> dict[str, ServerState]:
        """The state of each configured replica in `backend`, by name."""
        rows = csv.DictReader(self.command("show stat").removeprefix("# ").splitlines())
        return {
            row["svname"]: ServerState(row["status"], int(row["weight"]))
            for row in rows
            if row["pxname"] == backend and row["svname"] != "BACKEND" and row["status"] != "MAINT"
        }

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def wait_until(condition: Callable[[], bool], problem: Callable[[], str]) -> None:
    """Block until `condition` holds.

    Raises:
        ServerStartError: it does not hold in time; `problem` is the message.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise ServerStartError(problem())
        time.sleep(_POLL_S)
