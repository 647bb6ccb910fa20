"""HAProxy as people run it, with the configuration that is committed and nothing else.

It listens on loopback, on ports of its own, and can be ended in any way and started again.

Neighbours: `fleet` puts servers behind it. What does not belong here: what clients do.
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

from pipeline.loadtest.server_process import STOP_TIMEOUT_S, BootError, free_port

HAPROXY: Final = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin")
CONFIGURATION: Final = Path(__file__).parents[2] / "configs/haproxy.cfg"
BACKENDS: Final = ("lanes", "queue", "anyone")  # of that file, each with checks of its own
SOON_S: Final = 30.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one replica listens, and what the balancer calls it."""

    number: int
    port: int
    agent_port: int

    @property
    def name(self) -> str:
        """As in the configuration, and before each of its tokens."""
        return f"r{self.number}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica as one backend sees it."""

    status: str
    weight: int

    @property
    def is_up(self) -> bool:
        """Whether its checks say that it is there."""
        return self.status.startswith("UP")

    @property
    def takes_new(self) -> bool:
        """Whether a new session may come here."""
        return self.is_up and self.weight > 0


class Balancer:
    """HAProxy before `slots`, while it runs; `folder` is for its socket."""

    def __init__(self, slots: Sequence[Slot], folder: Path, log: IO[str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._socket = folder / "haproxy.sock"
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._environment = {
            "BALANCER_BIND": f"127.0.0.1:{self.port}",
            "BALANCER_METRICS_BIND": f"127.0.0.1:{free_port()}",
            "BALANCER_SOCKET": str(self._socket),
            "BALANCER_PER_ADDRESS": "100000",  # everybody comes from one address here
        }
        for slot in slots:
            place = f"127.0.0.1:{slot.port} agent-port {slot.agent_port}"
            self._environment[f"REPLICA_{slot.number}"] = place

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "it was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it, unless it runs, and wait until it listens.

        Raises:
            BootError: it is not installed, or does not like its configuration.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if HAPROXY is None:
            raise BootError("there is no haproxy (Debian: apt-get install haproxy)")
        command = [HAPROXY, "-db", "-f", str(CONFIGURATION)]
        environment = os.environ | self._environment
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=self._log, stderr=self._log, text=True
        )
        await_soon(self._listens, lambda: f"haproxy does not listen: {self.logged()[-500:]}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal, and wait for that."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(STOP_TIMEOUT_S)

    def logged(self) -> str:
        """Everything it has logged so far."""
        size_bytes = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size_bytes, 0).decode(errors="replace")

    def ask(self, command: str) -> str:
        """Say a line to its command socket; what it says to that."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self._socket))
            asking.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: asking.recv(65536), b"")).decode()

    def seen(self, backend: str) -> dict[str, Seen]:
        """The replicas, as `backend` sees them, by name; those that there are not are left out."""
        rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        return {
            row["svname"]: Seen(row["status"], int(row["weight"]))
            for row in rows
            if row["pxname"] == backend and row["svname"] != "BACKEND" and row["status"] != "MAINT"
        }

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        with socket.socket() as knock:
            return knock.connect_ex(("127.0.0.1", self.port)) == 0


def await_soon(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait until `condition` holds; blocks.

    Raises:
        BootError: it does not come to that, which `otherwise` puts into words.
    """
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise BootError(otherwise())
        time.sleep(_POLL_S)
