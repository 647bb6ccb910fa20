"""A server in a process of its own, started as a user would start it, for tests and measurements.

`start_server` runs `python -m pipeline.run` on a free port, waits until it is ready, and stops it
with SIGTERM. Its log can be read at any time.
"""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from pipeline.backend import user_environment
from pipeline.config import Source
from pipeline.errors import StartupError

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
ENDING_S = 1.0  # from when its sockets are closed until its process has ended
_POLL_S = 0.05


class ServerStartError(StartupError):
    """The server did not start, or did not become ready."""

    exit_code = 1


class ServerEndedError(StartupError):
    """The server's process ended in the middle of a measurement."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server; `ready_s` is the time from the start of its process until it was ready.

    tls: what its clients trust, where it speaks TLS.
    """

    port: int
    ready_s: float
    _process: subprocess.Popen[str]
    _log: IO[str]
    tls: ssl.SSLContext | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def socket_url(self) -> str:
        """The URL of its packet WebSocket."""
        return f"ws://127.0.0.1:{self.port}/ws"

    def processor_wait_s(self) -> float:
        """How long its event loop has waited for a processor so far; 0 where the system does not say.

        Source: Documentation/scheduler/sched-stats.rst of Linux, /proc/PID/schedstat.
        """
        try:
            _, waited_ns, _ = Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return 0.0
        return int(waited_ns) / 1e9

    def get(self, path: str) -> tuple[int, Any]:
        """GET `path`: the status, and the body as JSON or else as text."""
        try:
            scheme = "http" if self.tls is None else "https"
            url = f"{scheme}://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=5, context=self.tls) as response:  # noqa: S310 - ours
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode(errors="replace")

    def logged(self) -> str:
        """Everything it has logged so far."""
        size_bytes = os.fstat(self._log.fileno()).st_size
        # pread, because the server writes at the position of the same open file.
        return os.pread(self._log.fileno(), size_bytes, 0).decode(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Stop it with a signal; its exit code, None where it had to be killed."""
        self._process.send_signal(number)
        return self.wait()

    def check_running(self) -> None:
        """Raise a `ServerEndedError` with its last log line if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            exit_code = self._process.wait(ENDING_S)
            last = "".join(self.logged().strip().splitlines()[-1:])
            raise ServerEndedError(f"the server ended with exit code {exit_code} under the load: {last}")

    def wait(self) -> int | None:
        """Wait until it has exited; its exit code, None where it had to be killed."""
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def start_server(
    config: Source,
    overrides: Sequence[str] = (),
    *,
    program: Sequence[str] = ("-m", "pipeline.run"),
    port: int | None = None,
    prefix: Sequence[str] = (),
    tls: ssl.SSLContext | None = None,
) -> Iterator[ServerProcess]:
    """Serve `config` for the length of the block, on `port` or a free one; `program` is what Python runs.

    `prefix` is a command that runs the rest of its arguments in its own process. `tls`: what clients
    trust, where `overrides` have the server speak TLS.

    Raises:
        ServerStartError: the server exited, or was not ready in time; with its last log lines.
    """
    port = free_port() if port is None else port
    sets = [part for override in (*overrides, f"server.port={port}") for part in ("--set", override)]
    command = [*prefix, sys.executable, *program, "--config", str(config), *sets]
    with tempfile.TemporaryFile("w+") as log:
        began_s = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=log, stderr=log, text=True, env=user_environment()
        )
        server_process = ServerProcess(port, 0.0, process, log, tls)
        try:
            while not _is_ready(server_process):
                waited_s = time.monotonic() - began_s
                last = server_process.logged().strip().splitlines()[-3:]
                if process.poll() is not None:
                    raise ServerStartError(
                        f"the server ended with exit code {process.returncode}: {''.join(last[-1:])}"
                    )
                if waited_s > READY_TIMEOUT_S:
                    raise ServerStartError(
                        f"the server was not ready after {waited_s:.1f} s: {' / '.join(last)}"
                    )
                time.sleep(_POLL_S)
            yield replace(server_process, ready_s=time.monotonic() - began_s)
        finally:
            server_process.stop()


def _is_ready(server: ServerProcess) -> bool:
    try:
        status, _ = server.get("/health/ready")
    except OSError:  # it does not listen yet
        return False
    return status == 200
