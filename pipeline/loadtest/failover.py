"""Behind a balancer: what it adds to a frame, whether sessions hold, and what a rolling restart costs.

Whatever is compared takes turns within milliseconds, on one replica: a busy moment hits both alike.
"""

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
from pipeline.client.session import Audience, ConversationError, converse
from pipeline.client.source import Captured, Speech, now_ns
from pipeline.loadtest.client import Talker, speech, talking
from pipeline.loadtest.cluster import Fleet
from pipeline.loadtest.monitor import troubles
from pipeline.loadtest.scenarios import Crowd, heard
from pipeline.protocol import outgoing
from pipeline.units import FRAME_MS
from pipeline.values import Pcm

WARM_UP_FRAMES: Final = 25
IDLE_S: Final = 5.0  # of the balancer, with nothing to do but its checks
CALM_S: Final = 2.0  # talked before the first replica is replaced, and after each
TURN_MS: Final = FRAME_MS / 2  # so that each of two conversations says a frame in 80 ms


async def added_by_balancer(fleet: Fleet, frames: int) -> dict[str, Any]:
    """Milliseconds of the same, straight to a replica and through the balancer.

    `packet`: 7.7 KB of sound on their way and an ACK back, no model between them. `frame`: from a
    frame's capture to its answer, model and all, of two conversations half a frame apart.
    """
    async with talking(fleet.balancer.port, honest=False) as through:
        home = fleet.replicas[_home(through)]
        async with talking(home.port, honest=False) as direct:
            packet = await _packet_ms(direct, through, frames)
    async with talking(fleet.balancer.port) as through:
        home = fleet.replicas[_home(through)]
        async with talking(home.port) as direct, trio.open_nursery() as nursery:
            nursery.start_soon(direct.speak, WARM_UP_FRAMES + frames)
            await trio.sleep(FRAME_MS / 2000)
            nursery.start_soon(through.speak, WARM_UP_FRAMES + frames)
    frame = {name: _latencies_ms(talker) for name, talker in (("direct", direct), ("through", through))}
    return {"packet": _compared(packet), "frame": _compared(frame)}


async def crowd_behind_balancer(
    fleet: Fleet, sessions: int, seconds: float, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Sessions that all come through the balancer; what they heard, and how they were spread."""
    crowd = Crowd(sessions, 0, seconds, seed, mean_visit_s=float("inf"))
    spread: dict[str, int] = {}
    balancer = psutil.Process(fleet.balancer.pid)

    async def cores(meanwhile: Callable[[], Awaitable[None]]) -> float:
        began_s, before = trio.current_time(), balancer.cpu_times()
        await meanwhile()
        after = balancer.cpu_times()
        busy_s = after.user + after.system - before.user - before.system
        return float(busy_s / (trio.current_time() - began_s))

    async def look() -> None:
        await trio.sleep(seconds / 2)
        for name, server in fleet.replicas.items():
            _, health = await trio.to_thread.run_sync(server.get, "/health")
            spread[name] = health["lanes"]["open"]

    async def press() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await crowd.run(fleet.balancer.port)

    idle_cores = await cores(partial(trio.sleep, IDLE_S))
    busy_cores = await cores(press)
    figures = {
        "sessions": sessions,
        "seconds": seconds,
        "spread": spread,
        "balancer_cores_per_session": round((busy_cores - idle_cores) / sessions, 6),
        "balancer_rss_mib": round(balancer.memory_info().rss / 2**20, 1),
        **heard(crowd.account),
    }
    return figures, crowd.laws


@dataclass(slots=True)
class Restarted:
    """What clients made of a rolling restart: their reports, the longest silence of each, who was lost."""

    reports: list[Report] = field(default_factory=list)
    silences_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    exit_codes: list[int | None] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """In numbers."""
        return {
            "sessions": len(self.reports),
            "asked_to_leave": sum(report.renewed for report in self.reports),
            "lost": len(self.lost),
            "longest_silence_s": {
                "p50": round(statistics.median(self.silences_s), 2),
                "max": round(max(self.silences_s), 2),
            },
        }

    def laws(self) -> list[str]:
        """Those that were broken."""
        ended = [f"a drained replica ended with {code}, not 0" for code in self.exit_codes if code != 0]
        return ended + [f"a client of a rolling restart was lost: {sentence}" for sentence in self.lost]


async def rolling_restart(fleet: Fleet, sessions: int, *, calm_s: float = CALM_S) -> Restarted:
    """Replace every replica while `sessions` clients talk, one after the other, as an upgrade does."""
    done = Restarted()
    stop = trio.Event()

    async def talk() -> None:
        listener = _Listener()
        url = f"ws://127.0.0.1:{fleet.balancer.port}/ws"
        try:
            done.reports.append(await converse(url, _endless(), audience=listener, stop=stop))
        except ConversationError as error:
            done.reports.append(error.report)
            done.lost.append(str(error))
        done.silences_s.append(listener.longest_s)

    async with trio.open_nursery() as talking_clients:
        for _ in range(sessions):
            talking_clients.start_soon(talk)
        await trio.sleep(calm_s)
        for name in fleet.names:
            done.exit_codes.append(await trio.to_thread.run_sync(fleet.replace, name))
            await trio.sleep(calm_s)
        stop.set()
    return done


async def press_replicas(fleet: Fleet, sessions: int, seconds: float, seed: int) -> dict[str, Any]:
    """All three, one after the other: figures, and under `laws` what was broken."""
    added = await added_by_balancer(fleet, round(seconds * 1000 / FRAME_MS))
    await trio.to_thread.run_sync(fleet.await_idle)
    crowd, laws = await crowd_behind_balancer(fleet, sessions, seconds, seed)
    await trio.to_thread.run_sync(fleet.await_idle)
    restarted = await rolling_restart(fleet, sessions)
    for name, server in fleet.replicas.items():
        laws += [f"{name} logged: {line[:400]}" for line in troubles(server.logged())]
    return {
        "replicas": len(fleet.names),
        "added_by_balancer_ms": added,
        "crowd": crowd,
        "rolling_restart": restarted.figures(),
        "laws": laws + restarted.laws(),
    }


class _Listener(Audience):
    """Knows how long it heard nothing at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last_s: float | None = None

    def agent_spoke(self, pcm: Pcm) -> None:  # noqa: ARG002 - as an audience is told
        """Once more."""
        now_s = trio.current_time()
        if self._last_s is not None:
            self.longest_s = max(self.longest_s, now_s - self._last_s)
        self._last_s = now_s


async def _endless() -> Speech:
    """Ten seconds of noise, over and over."""
    pace, frames = Pace(now_ns()), [frames_of(payload)[0] for payload in speech()]
    index = 0
    while True:
        due_ns = pace.due_ns(index)
        await trio.sleep_until(due_ns / 1e9)
        yield Captured(frames[index % len(frames)], due_ns)
        index += 1


async def _packet_ms(direct: Talker, through: Talker, count: int) -> dict[str, list[float]]:
    taken_ms: dict[str, list[float]] = {"direct": [], "through": []}
    for index in range(WARM_UP_FRAMES + count):
        said = replace(outgoing.audio(speech()[index % len(speech())], float(index)), wants_ack=True)
        for name, talker in (("direct", direct), ("through", through)):
            began_s = trio.current_time()
            await talker.mark(said)
            if index >= WARM_UP_FRAMES:
                taken_ms[name].append(1000 * (trio.current_time() - began_s))
            await trio.sleep(TURN_MS / 1000)
    return taken_ms


def _home(talker: Talker) -> str:
    """The replica that holds this session."""
    assert talker.established is not None, "there is no session"
    token = talker.established.resume_token
    assert token is not None, "nobody is taken back here"
    return token.partition(".")[0]


def _latencies_ms(talker: Talker) -> list[float]:
    answers = np.frombuffer(talker.account.answers).reshape(-1, 2)
    return list(answers[WARM_UP_FRAMES:, 1])


def _compared(taken_ms: dict[str, list[float]]) -> dict[str, Any]:
    """Percentiles of both, and by how much the second ones are more; nothing where nothing was answered."""
    if not all(taken_ms.values()):
        return {}
    marks = {name: np.percentile(values, (50, 99)) for name, values in taken_ms.items()}
    marks["added"] = marks["through"] - marks["direct"]
    return {
        name: {"p50": round(float(p50), 3), "p99": round(float(p99), 3)} for name, (p50, p99) in marks.items()
    }
