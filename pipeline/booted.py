"""A server of our own, started as a user would start it, for the commands that probe or measure one.

`boot` runs `python -m pipeline.run` on a free port, waits until it is ready, and stops it
with SIGTERM. What it logged is at hand if it fails.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StartupError

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05


class BootError(StartupError):
    """The server did not start, or did not become ready."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Booted:
    """A running server; `ready_s` is how long it took from the start of its process."""

    port: int
    pid: int
    ready_s: float

    @property
    def socket_url(self) -> str:
        """Where its packet WebSocket is."""
        return f"ws://127.0.0.1:{self.port}/ws"

    def get(self, path: str) -> tuple[int, Any]:
        """GET `path`: the status, and the JSON or text that came with it."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def boot(config: Path, overrides: Sequence[str] = ()) -> Iterator[Booted]:
    """Serve `config` on a free port for as long as the context lasts.

    Raises:
        BootError: the server ended, or was not ready in time; the message ends with its last words.
    """
    port = _free_port()
    sets = [part for override in (*overrides, f"server.port={port}") for part in ("--set", override)]
    command = [sys.executable, "-m", "pipeline.run", "--config", str(config), *sets]
    with tempfile.TemporaryFile("w+") as log:
        began_s = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own command
        try:
            booted = Booted(port, process.pid, 0.0)
            while not _is_ready(booted):
                waited_s = time.monotonic() - began_s
                if process.poll() is not None or waited_s > READY_TIMEOUT_S:
                    log.seek(0)
                    last = log.read().strip().splitlines()[-3:]
                    raise BootError(f"the server was not ready after {waited_s:.1f} s: {' / '.join(last)}")
                time.sleep(_POLL_S)
            yield Booted(port, process.pid, time.monotonic() - began_s)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(server: Booted) -> bool:
    try:
        status, _ = server.get("/health/ready")
    except OSError:  # nobody listens yet
        return False
    return status == 200
