"""Many sessions at once on one server, in real time: a mix of clients, a ramp, a suspended server."""

import math
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import trio
from trio_websocket import ConnectionRejected

from pipeline.errors import PeerError, SessionError
from pipeline.loadtest.client import ClientCounts, LoadClient, ViolationError, connect_client
from pipeline.loadtest.misbehaving import FAULTS, FULL, flatten_errors
from pipeline.loadtest.monitor import ServerMonitor, error_lines
from pipeline.loadtest.server_process import ServerProcess
from pipeline.percentiles import percentile, percentiles
from pipeline.units import FRAME_MS

MEAN_VISIT_S: Final = 45.0  # of a normal client; the first one stays from beginning to end
SHORTEST_VISIT_S: Final = 3.0
RETRY_S: Final = 0.5
SAMPLES: Final = 60  # of the server's process, in one run
WARM_UP_FRAMES: Final = 25
SPREAD_S: Final = 2.0  # within which all clients connect
UNDERRUNS_MAX: Final = 1.0  # percent; with more, the server is overloaded
CALM_S: Final = 4.0  # before a stall, to measure the normal latency
AFTERMATH_S: Final = 10.0
SECOND_FRAMES: Final = 12
NORMAL_MS: Final = 20.0  # above the p99 before the stall, and still normal


@dataclass(slots=True)
class Load:
    """Clients of one server: `normal` ones talk, leave and come back; `faulty` ones have a fault each time.

    `faults` counts faults with the specified response, `rejected` the connections for which there was
    no room; `violations` are the broken guarantees, one sentence each.
    """

    normal: int
    faulty: int
    seconds: float
    seed: int
    mean_visit_s: float = MEAN_VISIT_S
    counts: ClientCounts = field(default_factory=ClientCounts)
    faults: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    violations: list[str] = field(default_factory=list)

    async def run(self, port: int) -> None:
        """Run for `seconds`; then normal clients finish, and faulty ones are cancelled."""
        stop = trio.Event()
        async with trio.open_nursery() as faulty:
            for index in range(self.faulty):
                rng = random.Random(f"{self.seed} faulty {index}")  # noqa: S311 - nothing secret
                faulty.start_soon(self._run_faulty, port, rng)
            async with trio.open_nursery() as normal:
                for index in range(self.normal):
                    rng = random.Random(f"{self.seed} normal {index}")  # noqa: S311
                    mean_s = math.inf if index == 0 else self.mean_visit_s
                    normal.start_soon(self._run_normal, port, rng, stop, mean_s)
                await trio.sleep(self.seconds)
                stop.set()
            faulty.cancel_scope.cancel()

    async def _run_normal(self, port: int, rng: random.Random, stop: trio.Event, mean_s: float) -> None:
        await trio.sleep(rng.uniform(0, min(SPREAD_S, self.seconds / 4)))
        while not stop.is_set():
            visit_s = mean_s if math.isinf(mean_s) else max(SHORTEST_VISIT_S, rng.expovariate(1 / mean_s))

            async def visit(visit_s: float = visit_s) -> None:
                async with connect_client(port) as client:
                    if not client.ready.is_set():
                        raise ViolationError(f"a normal client was rejected ({', '.join(client.errors)})")
                    await client.send_audio(visit_s * 1000 / FRAME_MS, stop=stop)
                    try:
                        await client.finish()
                    finally:
                        self.counts.add(client.counts)

            if not await self._succeeds("a normal client", visit):
                await trio.sleep(RETRY_S)
            await trio.sleep(rng.uniform(0, 1))

    async def _run_faulty(self, port: int, rng: random.Random) -> None:
        while True:
            # Every fault in turn, in random order: a short run does not leave any out by chance.
            for name in rng.sample(sorted(FAULTS), len(FAULTS)):
                if await self._succeeds(name, partial(FAULTS[name], port, rng)):
                    self.faults[name] += 1
                else:
                    await trio.sleep(RETRY_S)

    async def _succeeds(self, name: str, conversation: Callable[[], Awaitable[None]]) -> bool:
        """Whether a conversation had the specified outcome; where not, the reason is recorded."""
        errors = await errors_of(conversation)
        for error in errors:
            if isinstance(error, ConnectionRejected) and error.status_code == FULL:
                self.rejected += 1
            else:
                self.violations.append(f"{name}: {_sentence(error)}")
        return not errors


async def errors_of(conversation: Callable[[], Awaitable[None]]) -> list[Exception]:
    """Run a conversation; the errors of the server, the protocol and the network that ended it."""
    found: list[Exception] = []
    try:
        await conversation()
    except* (
        ViolationError,
        PeerError,
        SessionError,
        ConnectionRejected,
        OSError,
        trio.TooSlowError,
    ) as group:
        found += flatten_errors(group)
    return found


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def client_summary(counts: ClientCounts) -> dict[str, Any]:
    """What the clients sent and received, in numbers."""
    expected = max(1, counts.frames_out + counts.gaps)
    return {
        "sessions": counts.sessions,
        "frames_in": counts.frames_in,
        "frames_out": counts.frames_out,
        "gaps": counts.gaps,
        "underruns_percent": round(100 * counts.gaps / expected, 3),
        "server_underruns_percent": round(100 * counts.underruns / max(1, counts.frames_out), 3),
        "dropped": dict(counts.dropped),
        "latency_ms": _percentiles(counts.answers[1::2]),
        "client_lag_ms": _percentiles(counts.lags_ms),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    percents = (50, 99, 100)
    found = percentiles(values, *percents)
    return {f"p{percent}": round(value, 2) for percent, value in zip(percents, found, strict=True)}


async def run_load(server: ServerProcess, load: Load, *, grace_s: float) -> dict[str, Any]:
    """Run a load on a server: measurements, and the violations."""
    monitor = ServerMonitor(server, grace_s=grace_s)
    await _warm_up(server)
    await monitor.take_baseline()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run, max(1.0, load.seconds / SAMPLES))
        await load.run(server.port)
        nursery.cancel_scope.cancel()
    return {
        "normal": load.normal,
        "faulty": load.faulty,
        "seconds": load.seconds,
        "clients": client_summary(load.counts),
        "faults": dict(load.faults),
        "rejected": load.rejected,
        "server": monitor.summary(),
        "violations": load.violations + await monitor.violations(),
    }


async def ramp(
    server: ServerProcess,
    most: int,
    seconds: float,
    seed: int,
    *,
    grace_s: float,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """More and more sessions, until there are too many underruns or violations, or `most` sessions."""
    steps = []
    for count in session_counts(most):
        load = Load(count, 0, seconds, seed, mean_visit_s=math.inf)
        steps.append(await run_load(server, load, grace_s=grace_s))
        underruns_percent = steps[-1]["clients"]["underruns_percent"]
        report(f"{count} sessions: {underruns_percent} % underruns, {steps[-1]['server']['cpu_cores']} cores")
        if underruns_percent >= UNDERRUNS_MAX or steps[-1]["violations"]:
            break
    held = [step["normal"] for step in steps if step["clients"]["underruns_percent"] < UNDERRUNS_MAX]
    return {
        "held": max(held, default=0),
        "steps": steps,
        "violations": [violation for step in steps for violation in step["violations"]],
    }


def session_counts(most: int) -> list[int]:
    """1, 2, 4, 8, then in steps of four up to `most`."""
    return sorted({1, 2, 4, 8, *range(12, most, 4), most} & set(range(1, most + 1)))


async def _warm_up(server: ServerProcess) -> None:
    """One conversation, so that everything made for the first one is part of the baseline."""
    async with connect_client(server.port) as client:
        await client.send_audio(WARM_UP_FRAMES)
        await client.finish()


async def stall(
    server: ServerProcess,
    sessions: int,
    stalled_s: float,
    *,
    calm_s: float = CALM_S,
    aftermath_s: float = AFTERMATH_S,
) -> dict[str, Any]:
    """Suspend the server's process for a while; what its clients lose, and when latency is normal again."""
    clients: list[LoadClient] = []
    violations: list[str] = []
    stopped_at_s = resumed_at_s = 0.0
    stop = trio.Event()
    await _warm_up(server)

    async def talk() -> None:
        async with connect_client(server.port) as client:
            clients.append(client)
            await client.send_audio(stop=stop)
            await client.finish()

    async def suspend() -> None:
        nonlocal stopped_at_s, resumed_at_s
        await trio.sleep(calm_s)
        stopped_at_s = trio.current_time()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await trio.sleep(stalled_s)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        resumed_at_s = trio.current_time()
        await trio.sleep(aftermath_s)
        stop.set()

    async def run_client() -> None:
        violations.extend(f"a client: {_sentence(error)}" for error in await errors_of(talk))

    async with trio.open_nursery() as nursery:
        for _ in range(sessions):
            nursery.start_soon(run_client)
        nursery.start_soon(suspend)
    answers = [np.frombuffer(client.counts.answers).reshape(-1, 2) for client in clients]
    calm_ms = [ms for each in answers for ms in each[each[:, 0] < stopped_at_s, 1]]
    normal_ms = float(percentile(calm_ms, 99)) + NORMAL_MS
    dropped = Counter[str]()
    for client in clients:
        dropped.update(client.counts.dropped)
    return {
        "sessions": sessions,
        "stalled_s": stalled_s,
        "normal_ms": round(normal_ms, 1),
        "recovery_s": [
            _recovery_s(each[each[:, 0] >= resumed_at_s], resumed_at_s, normal_ms) for each in answers
        ],
        "reported_dropped": dict(dropped),
        "violations": violations + [f"logged: {line[:400]}" for line in error_lines(server.logged())],
    }


def _recovery_s(answers: Any, resumed_at_s: float, normal_ms: float) -> float | None:  # noqa: ANN401 - an array
    """When the median latency of one second of `answers [n, 2]` is normal again; None if never."""
    for i in range(len(answers) - SECOND_FRAMES):
        if np.median(answers[i : i + SECOND_FRAMES, 1]) <= normal_ms:
            return round(float(answers[i, 0]) - resumed_at_s, 2)
    return None
