"""What a server uses, measured from outside: its process, and its own /health and /metrics.

Between the baseline and the end it must have released everything: lanes, tasks, threads, sockets,
and the contents of its queues.
"""

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil
import trio

from pipeline.loadtest.server_process import ServerProcess

RELEASE_S: Final = 20.0  # for resources to be released, beyond the time in which a session can be resumed
LINGER_S: Final = 2.0  # for the sockets of clients that left before the baseline
IDLE_SOCKETS: Final = 1  # the one that listens
_POLL_S: Final = 0.25
_TASKS: Final = re.compile(r"^packet_voice_tasks (\S+)$", re.MULTILINE)
# Endings that are the server's fault.
_OWN_FAULTS: Final = ("crashed", "broken_invariant", "local_protocol", "engine_ended", "cancelled")


@dataclass(frozen=True, slots=True)
class Sample:
    """A server at one moment. `added_*` are of its last 1024 frames."""

    at_s: float
    cpu_s: float
    rss_mib: float
    threads: int
    sockets: int
    files: int
    tasks: int
    health: dict[str, Any]

    @property
    def lanes_open(self) -> int:
        """Lanes in use, or being released."""
        return int(self.health["lanes"]["open"])

    @property
    def overload_actions(self) -> dict[str, int]:
        """What the server dropped or skipped under load, by action."""
        return dict(self.health["metrics"]["ladder"])


def sample(server: ServerProcess) -> Sample:
    """Measure now; blocks for some milliseconds. The process is measured before /health is requested."""
    process = psutil.Process(server.pid)
    with process.oneshot():
        times = process.cpu_times()
        rss_mib = process.memory_info().rss / 2**20
        threads, files = process.num_threads(), process.num_fds()
        sockets = len(process.net_connections("tcp"))
    _, health = server.get("/health")
    _, metrics = server.get("/metrics")
    tasks = _TASKS.search(metrics)
    assert tasks is not None, "/metrics has no packet_voice_tasks"
    return Sample(
        at_s=time.monotonic(),
        cpu_s=times.user + times.system,
        rss_mib=rss_mib,
        threads=threads,
        sockets=sockets,
        files=files,
        tasks=round(float(tasks[1])),
        health=health,
    )


class ServerMonitor:
    """Takes samples of one server under load, and checks that it releases everything."""

    def __init__(self, server: ServerProcess, *, grace_s: float, release_s: float = RELEASE_S) -> None:
        self.samples: list[Sample] = []
        self._server = server
        self._timeout_s = grace_s + release_s
        self._baseline: Sample | None = None

    async def take_baseline(self) -> None:
        """Take the baseline, once no client is connected."""
        deadline_s = trio.current_time() + LINGER_S
        while True:
            now = await self._sample()
            lingering = now.sockets > IDLE_SOCKETS and trio.current_time() < deadline_s
            if not (lingering or now.lanes_open or now.health["clients"]):
                break
            await trio.sleep(_POLL_S)
        self._baseline = now

    async def run(self, every_s: float) -> None:
        """Take a sample every `every_s`, until cancelled."""
        while True:
            await trio.sleep(every_s)
            self.samples.append(await self._sample())

    async def violations(self) -> list[str]:
        """Once all clients have left: what was not released or went wrong, one sentence each."""
        deadline_s = trio.current_time() + self._timeout_s
        while True:
            now = await self._sample()
            unreleased = self._unreleased(now)
            if not unreleased or trio.current_time() > deadline_s:
                break
            await trio.sleep(_POLL_S)
        unreleased += [
            f"{count} sessions ended with {reason}"
            for reason, count in now.health["endings"].items()
            if reason in _OWN_FAULTS
        ]
        return unreleased + [f"logged: {line[:400]}" for line in error_lines(self._server.logged())]

    def _unreleased(self, now: Sample) -> list[str]:
        """What has not been released by now."""
        assert self._baseline is not None, "there is no baseline"
        before = self._baseline
        counts = {
            "lanes": (0, now.lanes_open),
            "clients": (0, now.health["clients"]),
            "threads": (before.threads, now.threads),
            "sockets": (before.sockets, now.sockets),
            "open files": (before.files, now.files),
            "tasks": (before.tasks, now.tasks),
        }
        unreleased = [
            f"{name}: {then} before, {now} after" for name, (then, now) in counts.items() if now > then
        ]
        for name, queue in now.health["metrics"]["queues"].items():
            if queue["depth"] or queue["sent"] != queue["taken"] + queue["leaked"]:
                unreleased.append(f"queue {name} is not empty, or its counts do not add up: {queue}")
        return unreleased

    async def _sample(self) -> Sample:
        return await trio.to_thread.run_sync(sample, self._server)

    def summary(self) -> dict[str, Any]:
        """Memory, processor, added latency, and overload actions."""
        if not self.samples:
            return {}
        tenth = max(1, len(self.samples) // 10)
        warm = [s.rss_mib for s in self.samples[2 * tenth : 3 * tenth]] or [self.samples[0].rss_mib]
        last = [s.rss_mib for s in self.samples[-tenth:]]
        first, final = self.samples[0], self.samples[-1]
        warm_mib, end_mib = statistics.median(warm), statistics.median(last)
        elapsed_s = final.at_s - first.at_s
        return {
            "added_ms": {
                "p50": round(statistics.median(_added(self.samples, "p50")), 3),
                "p99": round(statistics.median(_added(self.samples, "p99")), 3),
                "p99_worst": round(max(_added(self.samples, "p99")), 3),
            },
            "rss_mib": {"warm": round(warm_mib, 1), "end": round(end_mib, 1)},
            "rss_growth_percent": round(100 * (end_mib / warm_mib - 1), 2),
            "cpu_cores": round((final.cpu_s - first.cpu_s) / elapsed_s, 2) if elapsed_s else None,
            "threads_peak": max(s.threads for s in self.samples),
            "sockets_peak": max(s.sockets for s in self.samples),
            "stages_p50_ms": {
                name: final.health["metrics"][name]["p50"] for name in ("encode", "step", "decode")
            },
            "over_budget": final.health["metrics"]["overBudget"],
            "server_underruns": final.health["metrics"]["underruns"],
            "overload_actions": final.overload_actions,
            "endings": final.health["endings"],
        }


def _added(samples: Sequence[Sample], percentile: str) -> list[float]:
    return [s.health["metrics"]["added"][percentile] for s in samples]


def error_lines(log: str) -> list[str]:
    """The lines of a server's log that report errors."""
    return [
        line
        for line in log.splitlines()
        if '"level": "error"' in line or '"level": "critical"' in line or "Traceback" in line
    ]
