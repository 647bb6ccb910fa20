"""A real server in its own process, which tests can kill and restart at the same address."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
UNTRAINED = ROOT / "tests/data/untrained"  # random weights: it always produces text
READY_TIMEOUT_S = 180.0
POLL_S = 0.05
RUN = ("-m", "pipeline.run")
# A busy machine that runs the tests must not limit the number of pages.
FIXED = "lanes.admit=16"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`python -m pipeline.run` on a fixed port; `environment` is added to the current one.

    `program` is what Python runs instead; `root` is the checkout it is run from.
    """

    def __init__(
        self,
        *overrides: str,
        config: Path = UNTRAINED,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = RUN,
        root: Path = ROOT,
    ) -> None:
        self.port = free_port()
        self._root = root
        self._config = config
        self._program = program
        self._overrides = (FIXED, *overrides) if root == ROOT else overrides  # others may not know the key
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        sets = [part for o in (*self._overrides, f"server.port={self.port}") for part in ("--set", o)]
        command = [sys.executable, *self._program, "--config", str(self._config), *sets]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, cwd=self._root, env=self._environment, stdout=quiet, stderr=quiet
        )
        ends_s = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < ends_s, "the server was not ready in time"
            time.sleep(POLL_S)

    def health(self) -> dict[str, object]:
        with urllib.request.urlopen(f"{self.origin}/health", timeout=60) as answer:
            return dict(json.load(answer))

    def kill(self) -> None:
        """End it like a crash, without closing connections."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it like a lost network: no data, no close."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def put_back(self) -> None:
        """Of support/put_back_server.py: let no session run."""
        self._signal(signal.SIGUSR1)

    def let_run(self) -> None:
        """Of support/put_back_server.py: let one session run again."""
        self._signal(signal.SIGUSR2)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        self._process.wait(60)
        self._process = None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.origin}/health/ready", timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.HTTPError, OSError):
            return False


@contextmanager
def serving(
    *overrides: str,
    config: Path = UNTRAINED,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = RUN,
    root: Path = ROOT,
) -> Iterator[Server]:
    server = Server(*overrides, config=config, environment=environment, program=program, root=root)
    try:
        server.start()
        yield server
    finally:
        server.stop()
