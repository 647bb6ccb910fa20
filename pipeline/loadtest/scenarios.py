"""Many sessions at once on one booted server, in real time: a crowd, a growing one, a stalled one."""

import math
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import trio
from trio_websocket import ConnectionRejected

from pipeline.errors import PeerError, SessionError
from pipeline.loadtest.client import Account, Talker, WrongAnswerError, talking
from pipeline.loadtest.misbehaving import FULL, ROGUES, leaves
from pipeline.loadtest.monitor import Watch, troubles
from pipeline.loadtest.server_process import Booted
from pipeline.units import FRAME_MS

MEAN_VISIT_S: Final = 45.0  # of a well-behaved client; the first one stays from beginning to end
SHORTEST_VISIT_S: Final = 3.0
ASK_AGAIN_S: Final = 0.5
SAMPLES: Final = 60  # of the server's process, in one run
WARM_UP_FRAMES: Final = 25
SPREAD_S: Final = 2.0  # within which everybody arrives
UNDERRUNS_MAX: Final = 1.0  # percent, from which on sessions do not hold
CALM_S: Final = 4.0  # talked before a stall, to know what is normal
AFTERMATH_S: Final = 10.0
SECOND_FRAMES: Final = 12
NORMAL_MS: Final = 20.0  # above the p99 of calm times, and still normal


@dataclass(slots=True)
class Crowd:
    """Who is there: `polite` talk, leave and come again; `rude` do one misdeed after another.

    `misdeeds` counts those done and answered as they have to be, `turned_away` visits for which
    there was no room, `laws` says which were broken.
    """

    polite: int
    rude: int
    seconds: float
    seed: int
    mean_visit_s: float = MEAN_VISIT_S
    account: Account = field(default_factory=Account)
    misdeeds: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    laws: list[str] = field(default_factory=list)

    async def run(self, port: int) -> None:
        """Press for `seconds`; then who is polite finishes, and who is rude is cut off."""
        stop = trio.Event()
        async with trio.open_nursery() as rude:
            for index in range(self.rude):
                rude.start_soon(self._misbehave, port, random.Random(f"{self.seed} rude {index}"))  # noqa: S311
            async with trio.open_nursery() as polite:
                for index in range(self.polite):
                    dice = random.Random(f"{self.seed} polite {index}")  # noqa: S311
                    mean_s = math.inf if index == 0 else self.mean_visit_s
                    polite.start_soon(self._come_again, port, dice, stop, mean_s)
                await trio.sleep(self.seconds)
                stop.set()
            rude.cancel_scope.cancel()

    async def _come_again(self, port: int, dice: random.Random, stop: trio.Event, mean_s: float) -> None:
        await trio.sleep(dice.uniform(0, min(SPREAD_S, self.seconds / 4)))
        while not stop.is_set():
            visit_s = mean_s if math.isinf(mean_s) else max(SHORTEST_VISIT_S, dice.expovariate(1 / mean_s))

            async def visit(visit_s: float = visit_s) -> None:
                async with talking(port) as talker:
                    if not talker.ready.is_set():
                        raise WrongAnswerError(f"a polite client was sent away ({', '.join(talker.errors)})")
                    await talker.speak(visit_s * 1000 / FRAME_MS, stop=stop)
                    try:
                        await talker.part()
                    finally:
                        self.account.add(talker.account)

            if not await self._holds("a polite client", visit):
                await trio.sleep(ASK_AGAIN_S)
            await trio.sleep(dice.uniform(0, 1))

    async def _misbehave(self, port: int, dice: random.Random) -> None:
        while True:
            # Every kind in turn, in an order of its own: no kind is left out of a short run by chance.
            for name in dice.sample(sorted(ROGUES), len(ROGUES)):

                async def misdeed(name: str = name) -> None:
                    await ROGUES[name](port, dice)

                if await self._holds(name, misdeed):
                    self.misdeeds[name] += 1
                else:
                    await trio.sleep(ASK_AGAIN_S)

    async def _holds(self, who: str, conversation: Callable[[], Awaitable[None]]) -> bool:
        """Whether a conversation went as the protocol has it; where it did not, the reason is noted."""
        faults = await faults_of(conversation)
        for fault in faults:
            if isinstance(fault, ConnectionRejected) and fault.status_code == FULL:
                self.turned_away += 1
            else:
                self.laws.append(f"{who}: {_sentence(fault)}")
        return not faults


async def faults_of(conversation: Callable[[], Awaitable[None]]) -> list[Exception]:
    """Hold a conversation; what went wrong with it, which is nobody's crash."""
    found: list[Exception] = []
    try:
        await conversation()
    except* (
        WrongAnswerError,
        PeerError,
        SessionError,
        ConnectionRejected,
        OSError,
        trio.TooSlowError,
    ) as group:
        found += leaves(group)
    return found


def _sentence(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"


def heard(account: Account) -> dict[str, Any]:
    """What listeners heard, in figures."""
    latencies_ms = np.frombuffer(account.answers).reshape(-1, 2)[:, 1]
    expected = max(1, account.frames_out + account.gaps)
    return {
        "sessions": account.sessions,
        "frames_in": account.frames_in,
        "frames_out": account.frames_out,
        "gaps": account.gaps,
        "underruns_percent": round(100 * account.gaps / expected, 3),
        "server_underruns_percent": round(100 * account.underruns / max(1, account.frames_out), 3),
        "dropped": dict(account.dropped),
        "latency_ms": _percentiles(latencies_ms),
        "client_lag_ms": _percentiles(np.frombuffer(account.lags_ms)),
    }


def _percentiles(values: Any) -> dict[str, float]:  # noqa: ANN401 - an array
    if not len(values):
        return {}
    marks = (50, 99, 100)
    return {
        f"p{mark}": round(float(v), 2) for mark, v in zip(marks, np.percentile(values, marks), strict=True)
    }


async def press(server: Booted, crowd: Crowd, *, grace_s: float) -> dict[str, Any]:
    """A crowd, and what it cost: figures, and under `laws` what was broken."""
    watch = Watch(server, grace_s=grace_s)
    await _warm_up(server)
    await watch.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run, max(1.0, crowd.seconds / SAMPLES))
        await crowd.run(server.port)
        nursery.cancel_scope.cancel()
    laws = crowd.laws + await watch.end()
    return {
        "polite": crowd.polite,
        "rude": crowd.rude,
        "seconds": crowd.seconds,
        "heard": heard(crowd.account),
        "misdeeds": dict(crowd.misdeeds),
        "turned_away": crowd.turned_away,
        "server": watch.figures(),
        "laws": laws,
    }


async def ramp(
    server: Booted, most: int, seconds: float, seed: int, *, grace_s: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """More and more sessions, until they do not hold, or `most` do."""
    steps = []
    for count in widths(most):
        crowd = Crowd(count, 0, seconds, seed, mean_visit_s=math.inf)
        steps.append(await press(server, crowd, grace_s=grace_s))
        underruns_percent = steps[-1]["heard"]["underruns_percent"]
        tell(f"{count} sessions: {underruns_percent} % underruns, {steps[-1]['server']['cpu_cores']} cores")
        if underruns_percent >= UNDERRUNS_MAX or steps[-1]["laws"]:
            break
    held = [step["polite"] for step in steps if step["heard"]["underruns_percent"] < UNDERRUNS_MAX]
    return {
        "held": max(held, default=0),
        "steps": steps,
        "laws": [law for step in steps for law in step["laws"]],
    }


def widths(most: int) -> list[int]:
    """1, 2, 4, 8, then by fours."""
    return sorted({1, 2, 4, 8, *range(12, most, 4), most} & set(range(1, most + 1)))


async def _warm_up(server: Booted) -> None:
    """One conversation: what a first one makes stays made."""
    async with talking(server.port) as talker:
        await talker.speak(WARM_UP_FRAMES)
        await talker.part()


async def stall(
    server: Booted,
    sessions: int,
    stalled_s: float,
    *,
    calm_s: float = CALM_S,
    aftermath_s: float = AFTERMATH_S,
) -> dict[str, Any]:
    """Stop the server's process for a while; what its clients hear of it, and how soon all is well again."""
    talkers: list[Talker] = []
    laws: list[str] = []
    stopped_at_s = resumed_at_s = 0.0
    stop = trio.Event()
    await _warm_up(server)

    async def talk() -> None:
        async with talking(server.port) as talker:
            talkers.append(talker)
            await talker.speak(stop=stop)
            await talker.part()

    async def freeze() -> None:
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

    async def note() -> None:
        laws.extend(f"a client: {_sentence(fault)}" for fault in await faults_of(talk))

    async with trio.open_nursery() as nursery:
        for _ in range(sessions):
            nursery.start_soon(note)
        nursery.start_soon(freeze)
    calm_ms: list[float] = []
    recoveries_s: list[float | None] = []
    for talker in talkers:
        answers = np.frombuffer(talker.account.answers).reshape(-1, 2)
        calm_ms += list(answers[answers[:, 0] < stopped_at_s, 1])
    normal_ms = float(np.percentile(calm_ms, 99)) + NORMAL_MS
    for talker in talkers:
        answers = np.frombuffer(talker.account.answers).reshape(-1, 2)
        recoveries_s.append(_recovery_s(answers[answers[:, 0] >= resumed_at_s], resumed_at_s, normal_ms))
    told = Counter[str]()
    for talker in talkers:
        told.update(talker.account.dropped)
    return {
        "sessions": sessions,
        "stalled_s": stalled_s,
        "normal_ms": round(normal_ms, 1),
        "recovery_s": recoveries_s,
        "told_dropped": dict(told),
        "laws": laws + [f"logged: {line[:400]}" for line in troubles(server.logged())],
    }


def _recovery_s(answers: Any, resumed_at_s: float, normal_ms: float) -> float | None:  # noqa: ANN401 - an array
    """From when on a second of `answers [n, 2]` is normal in the median; None where that never came."""
    for place in range(len(answers) - SECOND_FRAMES):
        if np.median(answers[place : place + SECOND_FRAMES, 1]) <= normal_ms:
            return round(float(answers[place, 0]) - resumed_at_s, 2)
    return None
