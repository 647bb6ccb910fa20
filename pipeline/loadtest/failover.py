"""Load behind a balancer: its overhead per frame, sessions over time, and a rolling restart.

Measurements that are compared alternate within milliseconds, on one replica: a busy moment affects
both alike.
"""

import operator
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
import psutil
import trio

from pipeline.audio.framing import frames_of
from pipeline.audio.pacing import Pace
from pipeline.client.report import Report
from pipeline.client.session import ConversationError, EventHandler, converse
from pipeline.client.source import AudioSource, CapturedFrame, now_ns
from pipeline.loadtest.client import LoadClient, connect_client, speech
from pipeline.loadtest.cluster import Cluster
from pipeline.loadtest.monitor import error_lines
from pipeline.loadtest.scenarios import Load, client_summary
from pipeline.percentiles import percentiles
from pipeline.protocol import outgoing
from pipeline.units import FRAME_MS
from pipeline.values import Pcm

WARM_UP_FRAMES: Final = 25
IDLE_S: Final = 5.0  # in which the balancer only runs its health checks
CALM_S: Final = 2.0  # before the first replica is replaced, and after each
TURN_MS: Final = FRAME_MS / 2  # so that each of two conversations sends a frame in 80 ms


async def balancer_overhead(cluster: Cluster, frames: int) -> dict[str, Any]:
    """Latencies in milliseconds, directly to a replica and through the balancer.

    `packet`: 7.7 KB of audio there and an ACK back, without a model. `frame`: from a frame's capture
    to its answer, with the model, of two conversations half a frame apart.
    """
    async with connect_client(cluster.balancer.port, check_answers=False) as through:
        home = cluster.replicas[_home(through)]
        async with connect_client(home.port, check_answers=False) as direct:
            packet = await _packet_ms(direct, through, frames)
    async with connect_client(cluster.balancer.port) as through:
        home = cluster.replicas[_home(through)]
        async with connect_client(home.port) as direct, trio.open_nursery() as nursery:
            nursery.start_soon(direct.send_audio, WARM_UP_FRAMES + frames)
            await trio.sleep(FRAME_MS / 2000)
            nursery.start_soon(through.send_audio, WARM_UP_FRAMES + frames)
    frame = {name: _latencies_ms(client) for name, client in (("direct", direct), ("through", through))}
    return {"packet": _compared(packet), "frame": _compared(frame)}


async def load_behind_balancer(
    cluster: Cluster, sessions: int, seconds: float, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Sessions through the balancer: what they received, how they were distributed; and violations."""
    load = Load(sessions, 0, seconds, seed, mean_visit_s=float("inf"))
    spread: dict[str, int] = {}
    balancer = psutil.Process(cluster.balancer.pid)

    async def cores(meanwhile: Callable[[], Awaitable[None]]) -> float:
        began_s, before = trio.current_time(), balancer.cpu_times()
        await meanwhile()
        after = balancer.cpu_times()
        busy_s = after.user + after.system - before.user - before.system
        return float(busy_s / (trio.current_time() - began_s))

    async def count_sessions() -> None:
        await trio.sleep(seconds / 2)
        for name, server in cluster.replicas.items():
            _, health = await trio.to_thread.run_sync(server.get, "/health")
            spread[name] = health["lanes"]["open"]

    async def run_clients() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_sessions)
            await load.run(cluster.balancer.port)

    idle_cores = await cores(partial(trio.sleep, IDLE_S))
    busy_cores = await cores(run_clients)
    results = {
        "sessions": sessions,
        "seconds": seconds,
        "spread": spread,
        "balancer_cores_per_session": round((busy_cores - idle_cores) / sessions, 6),
        "balancer_rss_mib": round(balancer.memory_info().rss / 2**20, 1),
        **client_summary(load.counts),
    }
    return results, load.violations


@dataclass(slots=True)
class RestartResult:
    """A rolling restart at the clients' ends: reports, the longest silence of each, failed clients."""

    reports: list[Report] = field(default_factory=list)
    silences_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    exit_codes: list[int | None] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The result in numbers."""
        return {
            "sessions": len(self.reports),
            "new_sessions": sum(report.renewed for report in self.reports),
            "lost": len(self.lost),
            "longest_silence_s": {
                "p50": round(statistics.median(self.silences_s), 2),
                "max": round(max(self.silences_s), 2),
            },
        }

    def violations(self) -> list[str]:
        """One sentence each."""
        exits = [f"a drained replica exited with {code}, not 0" for code in self.exit_codes if code != 0]
        return exits + [f"a client was lost in a rolling restart: {message}" for message in self.lost]


async def rolling_restart(cluster: Cluster, sessions: int, *, calm_s: float = CALM_S) -> RestartResult:
    """Replace the replicas one after the other, as an upgrade does, while `sessions` clients talk."""
    result = RestartResult()
    stop = trio.Event()

    async def talk() -> None:
        handler = _SilenceTracker()
        url = f"ws://127.0.0.1:{cluster.balancer.port}/ws"
        try:
            result.reports.append(await converse(url, _endless(), handler=handler, stop=stop))
        except ConversationError as error:
            result.reports.append(error.report)
            result.lost.append(str(error))
        result.silences_s.append(handler.longest_s)

    async with trio.open_nursery() as nursery:
        for _ in range(sessions):
            nursery.start_soon(talk)
        await trio.sleep(calm_s)
        for name in cluster.names:
            result.exit_codes.append(await trio.to_thread.run_sync(cluster.replace, name))
            await trio.sleep(calm_s)
        stop.set()
    return result


async def run_failover_load(cluster: Cluster, sessions: int, seconds: float, seed: int) -> dict[str, Any]:
    """All three measurements, one after the other, and the violations."""
    overhead = await balancer_overhead(cluster, round(seconds * 1000 / FRAME_MS))
    await trio.to_thread.run_sync(cluster.wait_until_idle)
    load, violations = await load_behind_balancer(cluster, sessions, seconds, seed)
    await trio.to_thread.run_sync(cluster.wait_until_idle)
    restarted = await rolling_restart(cluster, sessions)
    for name, server in cluster.replicas.items():
        violations += [f"{name} logged: {line[:400]}" for line in error_lines(server.logged())]
    return {
        "replicas": len(cluster.names),
        "balancer_overhead_ms": overhead,
        "load": load,
        "rolling_restart": restarted.summary(),
        "violations": violations + restarted.violations(),
    }


class _SilenceTracker(EventHandler):
    """Measures the longest time without audio."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last_s: float | None = None

    def on_audio(self, pcm: Pcm) -> None:  # noqa: ARG002 - the signature of EventHandler
        """Audio arrived: the silence is over."""
        now_s = trio.current_time()
        if self._last_s is not None:
            self.longest_s = max(self.longest_s, now_s - self._last_s)
        self._last_s = now_s


async def _endless() -> AudioSource:
    """Ten seconds of noise, repeated."""
    pace, frames = Pace(now_ns()), [frames_of(payload)[0] for payload in speech()]
    index = 0
    while True:
        due_ns = pace.due_ns(index)
        await trio.sleep_until(due_ns / 1e9)
        yield CapturedFrame(frames[index % len(frames)], due_ns)
        index += 1


async def _packet_ms(direct: LoadClient, through: LoadClient, count: int) -> dict[str, list[float]]:
    taken_ms: dict[str, list[float]] = {"direct": [], "through": []}
    for index in range(WARM_UP_FRAMES + count):
        packet = replace(outgoing.audio(speech()[index % len(speech())], float(index)), wants_ack=True)
        for name, client in (("direct", direct), ("through", through)):
            began_s = trio.current_time()
            await client.round_trip(packet)
            if index >= WARM_UP_FRAMES:
                taken_ms[name].append(1000 * (trio.current_time() - began_s))
            await trio.sleep(TURN_MS / 1000)
    return taken_ms


def _home(client: LoadClient) -> str:
    """The replica of this session."""
    assert client.established is not None, "there is no session"
    token = client.established.resume_token
    assert token is not None, "this server does not resume sessions"
    return token.partition(".")[0]


def _latencies_ms(client: LoadClient) -> list[float]:
    answers = np.frombuffer(client.counts.answers).reshape(-1, 2)
    return list(answers[WARM_UP_FRAMES:, 1])


def _compared(taken_ms: dict[str, list[float]]) -> dict[str, Any]:
    """Percentiles of both, and their differences; empty where no frame was answered."""
    if not all(taken_ms.values()):
        return {}
    found = {name: percentiles(values, 50, 99) for name, values in taken_ms.items()}
    found["added"] = tuple(map(operator.sub, found["through"], found["direct"]))
    return {name: {"p50": round(p50, 3), "p99": round(p99, 3)} for name, (p50, p99) in found.items()}
