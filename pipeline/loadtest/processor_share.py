"""Takes a share of the processor away from a server, for tests and measurements.

Where this process may make a cgroup, the server gets one with a CPU quota; elsewhere processes of our own
compete with it on every core. What does not belong here: measuring what is left.
"""

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pipeline.system import resources

PERIOD_US: Final = (
    20_000  # shorter than in containers: a slower processor, not one that stands still at times
)
_BUSY: Final = "while True: pass"
_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
_JOIN: Final = 'echo $$ > "$0/cgroup.procs" && exec "$@"'

Method = Literal["everything", "cgroup", "competitors"]


@dataclass(frozen=True, slots=True)
class ProcessorShare:
    """`cores` that a server gets which is started by a command behind `prefix`, and by which method."""

    method: Method
    cores: float
    prefix: tuple[str, ...] = ()


@contextlib.contextmanager
def processor_share(share: float) -> Iterator[ProcessorShare]:
    """Grant `share` of the processor, at most 1, to a server, for the length of the block."""
    cores = share * resources.granted_cores()
    with contextlib.ExitStack() as stack:
        if share >= 1:
            yield ProcessorShare("everything", cores)
            return
        group = stack.enter_context(_cgroup(cores))
        if group is not None:
            yield ProcessorShare("cgroup", cores, ("sh", "-c", _JOIN, str(group)))
            return
        yield ProcessorShare("competitors", stack.enter_context(_competitors(share)))


@contextlib.contextmanager
def _cgroup(cores: float) -> Iterator[Path | None]:
    """A cgroup with this quota, in either version; None where none may be made."""
    quota_us = round(cores * PERIOD_US)
    name = f"packet-voice-{os.getpid()}"
    for parent, quotas in (
        (_V1, {"cpu.cfs_period_us": f"{PERIOD_US}", "cpu.cfs_quota_us": f"{quota_us}"}),
        (_V2, {"cpu.max": f"{quota_us} {PERIOD_US}"}),
    ):
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for file, text in quotas.items():
                (group / file).write_text(text, encoding="ascii")
        except OSError:  # the controller is not enabled there
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


@contextlib.contextmanager
def _competitors(share: float) -> Iterator[float]:
    """Busy processes on every core, so many that the server gets about `share` of it; the cores it gets."""
    each = max(1, math.ceil(1 / share) - 1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    places: list[int | None] = [*cores] or [None] * resources.usable_cores()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for core in places:
            for _ in range(each):
                process = subprocess.Popen([sys.executable, "-c", _BUSY])  # noqa: S603 - our own command
                processes.append(process)
                if core is not None:
                    os.sched_setaffinity(process.pid, {core})
        yield len(places) / (each + 1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
