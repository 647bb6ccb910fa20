"""A network namespace with only its own loopback, where every port is free."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# The loopback interface of a new namespace is down; SIOCSIFFLAGS with IFF_UP brings it up.
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
    """The network namespace of the process `pid`."""

    pid: int

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in this network."""
        return ["nsenter", f"--target={self.pid}", "--net", *command]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this network and wait for it."""
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
        """Run a command in this network until the context ends."""
        with subprocess.Popen(self.inside(command), env={**os.environ, **environment}) as process:
            try:
                yield process
            finally:
                process.terminate()


def missing() -> str | None:
    """Why network namespaces are not available here; None if they are."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can create a network namespace"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "network namespaces are not available"


@contextmanager
def own_network() -> Iterator[Network]:
    """A network that exists until the context ends."""
    holder = ("unshare", "--net", *WITH_LOOPBACK, "sh", "-c", "echo ready; exec cat")
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield Network(process.pid)
        finally:
            process.terminate()
