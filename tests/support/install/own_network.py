"""A network with nothing but its own loopback, in which every port is free and nobody else listens."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# The loopback interface of a new network is down until somebody raises it: SIOCSIFFLAGS, IFF_UP.
WITH_LOOPBACK = (
    sys.executable,
    "-c",
    (
        "import fcntl, os, socket, struct, sys; "
        "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1)); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    ),
)


@dataclass(frozen=True, slots=True)
class Network:
    """One that exists as long as the process `pid` does."""

    pid: int

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in it."""
        return ["nsenter", f"--target={self.pid}", "--net", *command]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in it, to its end."""
        return subprocess.run(
            self.inside(command),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def running(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs in it for as long as the context lasts."""
        with subprocess.Popen(self.inside(command), env={**os.environ, **environment}) as process:
            try:
                yield process
            finally:
                process.terminate()


def missing() -> str | None:
    """Why there can be none here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can make a network"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "no network can be made"


@contextmanager
def own_network() -> Iterator[Network]:
    """One for as long as the context lasts."""
    holder = ("unshare", "--net", *WITH_LOOPBACK, "sh", "-c", "echo ready; exec cat")
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield Network(process.pid)
        finally:
            process.terminate()
