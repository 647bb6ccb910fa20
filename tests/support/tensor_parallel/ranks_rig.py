"""Real ranks for tests: processes on loopback that find each other as `mlx.launch` has them do."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.checkpoints import LM

ROOT = Path(__file__).parents[3]

# Heads that share keys and values, one set of depformer weights per codebook, and few exchanges:
# where the ranks have to share a core, each takes as long as a time slice.
SHARED: Mapping[str, Any] = {
    **LM,
    "num_heads": 4,
    "kv_repeat": 2,
    "depformer_kv_repeat": 1,
    "n_q": 4,
    "dep_q": 2,
    "delays": [0, 0, 1, 0, 1],
    "context": 4,
    "depformer_num_layers": 1,
}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Rank:
    """One process; its output goes to files, so that no pipe fills up."""

    def __init__(self, number: int, command: Sequence[str], hostfile: Path, env: Mapping[str, str]) -> None:
        self._out, self._err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **env, "MLX_HOSTFILE": str(hostfile), "MLX_RANK": str(number)},
            stdout=self._out,
            stderr=self._err,
        )

    def ended(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout_s)

    def output(self) -> str:
        return self._read(self._err)

    def printed(self) -> str:
        return self._read(self._out)

    def _read(self, file: Any) -> str:
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()


@contextmanager
def ranks(
    *command: str, size: int = 2, each: Sequence[Sequence[str]] = (), env: Mapping[str, str] | None = None
) -> Iterator[list[Rank]]:
    """`size` processes that run `command`, each with arguments of its own if there are any."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hostfile = folder / "hosts.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
        started = []
        for number in range(size):
            own = each[number] if each else ()
            rank = Rank(number, [*command, *own], hostfile, env or {})
            stack.callback(rank.close)
            started.append(rank)
        yield started
