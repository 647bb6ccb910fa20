"""Cores and memory as granted to this process: affinity and cgroup limits, not the host's figures.

A container, a systemd slice or `taskset` leaves a process less than the host has, and a program that counts
the host's cores starts too many threads. Limits apply along the whole path of cgroups up to the root; the
tightest one counts. Both versions of cgroups are read, at the time of the call, because limits change.

Source: the kernel's admin-guide/cgroup-v1 and cgroup-v2, cgroups(7), proc_pid_mountinfo(5). Elsewhere than
on Linux the host's figures are the process's own. What does not belong here: dividing cores among stages
(`pipeline.backend`).
"""

import math
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path("/")
# What a server maps and does not use, mostly heaps and stacks of threads, of which libraries start some for
# each core: 0.8 GiB in all was measured on two cores with MLX and MKL.
_UNUSED_BYTES: Final = 1 << 30
_UNUSED_CORE_BYTES: Final = 1 << 27
_UNLIMITED_BYTES: Final = 1 << 60  # cgroup v1 has no word for "no limit"; it shows a number near 2^63


def granted_cores(root: Path = ROOT) -> float:
    """Cores this process may use at once: at most its affinity and its CPU quota, which may be a fraction."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(affinity), *_quotas(root)])


def usable_cores(root: Path = ROOT) -> int:
    """Threads that can compute at once within `granted_cores`; at least one."""
    return max(1, math.floor(granted_cores(root) + 0.5))


def total_bytes(root: Path = ROOT) -> int:
    """Memory this process could ever have."""
    host: int = psutil.virtual_memory().total
    return min([host, *(memory.limit for memory in _memories(root))])


def available_bytes(root: Path = ROOT) -> int:
    """Memory this process could take now without swapping; page cache that can be dropped counts as free."""
    host: int = psutil.virtual_memory().available
    granted = (max(0, memory.limit - memory.used) for memory in _memories(root))
    return min([host, *granted, *_address_space_left()])


def limits_address_space() -> bool:
    """Whether this process may only map so much (`ulimit -v`)."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _address_space_left() -> Iterator[int]:
    """What this process may still map and use, where that is limited: libraries and threads map much more.

    A library whose thread finds none ends the process from inside, which nothing can turn into a sentence.
    """
    if limits_address_space():
        mapped_bytes = psutil.Process().memory_info().vms + _UNUSED_BYTES
        mapped_bytes += (os.cpu_count() or 1) * _UNUSED_CORE_BYTES
        yield max(0, resource.getrlimit(resource.RLIMIT_AS)[0] - mapped_bytes)


@dataclass(frozen=True, slots=True)
class _Memory:
    limit: int
    used: int  # without page cache that can be dropped


def _quotas(root: Path) -> Iterator[float]:
    for folder in _groups(root, "cpu"):
        if (text := _read(folder / "cpu.max")) is not None:
            quota, _, period = text.partition(" ")
        else:
            quota, period = (
                _read(folder / "cpu.cfs_quota_us") or "-1",
                _read(folder / "cpu.cfs_period_us") or "",
            )
        if quota.isdigit() and period.isdigit() and int(period):  # "max" and -1 are no limit
            yield int(quota) / int(period)


def _memories(root: Path) -> Iterator[_Memory]:
    for folder in _groups(root, "memory"):
        if (text := _read(folder / "memory.max")) is not None:
            used, droppable = _read(folder / "memory.current"), "inactive_file"
        else:
            text, used = _read(folder / "memory.limit_in_bytes"), _read(folder / "memory.usage_in_bytes")
            droppable = "total_inactive_file"
        if text is None or not text.isdigit() or int(text) >= _UNLIMITED_BYTES or used is None:
            continue
        statistics = dict(line.split() for line in (_read(folder / "memory.stat") or "").splitlines())
        yield _Memory(int(text), int(used) - int(statistics.get(droppable, 0)))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of those above it, as far as they are mounted here."""
    for hierarchy, controllers, path in _memberships(root):
        unified = hierarchy == "0"
        if not unified and controller not in controllers:
            continue
        for mount, mounted in _mounts(root, None if unified else controller):
            # Within a cgroup namespace or a container, what is mounted may be a part of the hierarchy.
            inner = Path(path).relative_to(mounted) if Path(path).is_relative_to(mounted) else Path()
            folder = mount / inner
            while folder != mount:
                yield folder
                folder = folder.parent
            yield mount


def _memberships(root: Path) -> Iterator[tuple[str, list[str], str]]:
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        yield hierarchy, controllers.split(","), path


def _mounts(root: Path, controller: str | None) -> Iterator[tuple[Path, str]]:
    """Where a hierarchy is mounted, and which of its cgroups is at that place; None is version 2."""
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup2" if controller is None else kind == "cgroup" and controller in options.split(","):
            _, _, _, mounted, point, *_ = mount.split()
            yield root / point.lstrip("/"), mounted


def _read(path: Path) -> str | None:
    """A small file's text; None where it is missing or may not be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
