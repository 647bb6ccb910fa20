"""A server of our own, started as a user would start it, for the commands that probe or measure one.

`boot` runs `python -m pipeline.run` on a free port, waits until it is ready, and stops it
with SIGTERM. What it logged is at hand, also while it runs.
"""

import json
import os
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
from dataclasses import dataclass, replace
from typing import IO, Any

from pipeline.backend import users_environment
from pipeline.config import Source
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
    ready_s: float
    _process: subprocess.Popen[str]
    _log: IO[str]

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

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

    def logged(self) -> str:
        """Everything it has logged so far."""
        size_bytes = os.fstat(self._log.fileno()).st_size
        # Not by seeking: the server writes where this file's one position stands.
        return os.pread(self._log.fileno(), size_bytes, 0).decode(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it by a signal, unless it has ended; its exit code, None where it had to be killed."""
        self._process.send_signal(number)
        return self.ended()

    def ended(self) -> int | None:
        """Wait for its end; its exit code, None where it had to be killed."""
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


def free_port() -> int:
    """A TCP port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def boot(
    config: Source,
    overrides: Sequence[str] = (),
    *,
    program: Sequence[str] = ("-m", "pipeline.run"),
    port: int | None = None,
) -> Iterator[Booted]:
    """Serve `config` for as long as the context lasts; `program` is what Python runs.

    On `port`, or a free one.

    Raises:
        BootError: the server ended, or was not ready in time; the message ends with its last words.
    """
    port = free_port() if port is None else port
    sets = [part for override in (*overrides, f"server.port={port}") for part in ("--set", override)]
    command = [sys.executable, *program, "--config", str(config), *sets]
    with tempfile.TemporaryFile("w+") as log:
        began_s = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=log, stderr=log, text=True, env=users_environment()
        )
        booted = Booted(port, 0.0, process, log)
        try:
            while not _is_ready(booted):
                waited_s = time.monotonic() - began_s
                if process.poll() is not None or waited_s > READY_TIMEOUT_S:
                    last = booted.logged().strip().splitlines()[-3:]
                    raise BootError(f"the server was not ready after {waited_s:.1f} s: {' / '.join(last)}")
                time.sleep(_POLL_S)
            yield replace(booted, ready_s=time.monotonic() - began_s)
        finally:
            booted.stop()


def _is_ready(server: Booted) -> bool:
    try:
        status, _ = server.get("/health/ready")
    except OSError:  # nobody listens yet
        return False
    return status == 200
