"""A server with a share of the processor, and more and fewer clients than it holds.

First the number that holds is found by hand, with every lane admitted. Then a server that measures by itself
gets ½, 1, 2 and 4 times as many clients, and fewer again: how many it admits, what quality they get, how
long the others wait until they are informed, and until the next is admitted once others have left.

Neighbours: `processor_share` takes the rest of the processor away, `client` is one session. What does not
belong here: how a server decides (`actors.capacity`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from pipeline.config import Source
from pipeline.loadtest.client import LoadClient, ViolationError, connect_client
from pipeline.loadtest.monitor import error_lines
from pipeline.loadtest.processor_share import processor_share
from pipeline.loadtest.scenarios import errors_of
from pipeline.loadtest.server_process import ServerProcess, start_server

LOADS: Final = (0.5, 1.0, 2.0, 4.0)  # × what the server was measured to hold, up and down again
SETTLE_S: Final = 5.0  # after a change of load, before quality counts
ANSWERED: Final = 0.99
UNDERRUNS: Final = 0.01
MOST: Final = 64  # clients, and lanes
TELL_S: Final = 10.0
IN_FLIGHT: Final = 5  # frames, 400 ms: what the server answers at the latest


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one client at one moment: frames sent that can be answered, answers, and gaps in playback."""

    sent: int
    answered: int
    gaps: int

    def since(self, before: "Counts") -> "Counts":
        """The difference to an earlier moment."""
        return Counts(self.sent - before.sent, self.answered - before.answered, self.gaps - before.gaps)


class Crowd:
    """Clients of one server; the oldest leaves first.

    Attributes:
        told_s: for each client, the time from its connection until it was informed that it runs or waits.
        admitted_s: for each time that clients left while others waited, the time until the next one ran.
    """

    def __init__(self, port: int, settle_s: float = SETTLE_S) -> None:
        self.told_s: list[float] = []
        self.admitted_s: list[float] = []
        self.violations: list[str] = []
        self._port = port
        self._settle_s = settle_s
        self._clients: dict[LoadClient, trio.Event] = {}
        self._all: list[LoadClient] = []
        self._nursery: trio.Nursery | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        """Clients may come from now on, in this nursery."""
        self._nursery = nursery

    @property
    def running(self) -> list[LoadClient]:
        """Those that run."""
        return [client for client in self._clients if client.is_running]

    @property
    def waiting(self) -> int:
        """How many wait, put back or never admitted."""
        return len(self._clients) - len(self.running)

    @property
    def put_back_total(self) -> int:
        """How often a client was put back so far, those that have left included."""
        return sum(client.put_back_total for client in self._all)

    async def resize(self, count: int) -> None:
        """Let clients come or leave until there are `count`, and every new one was informed."""
        assert self._nursery is not None
        informed = []
        for _ in range(len(self._clients), count):
            informed.append(trio.Event())
            self._nursery.start_soon(self._visit, informed[-1])
        leaving = list(dict.fromkeys([*self.running, *self._clients]))[: max(0, len(self._clients) - count)]
        waited = self.waiting
        before = set(self.running)
        for client in leaving:
            self._clients[client].set()
            del self._clients[client]
        began_s = trio.current_time()
        if waited and leaving and count:
            with trio.move_on_after(TELL_S):
                while not set(self.running) - before:  # noqa: ASYNC110 - a moment, ten times a second
                    await trio.sleep(0.1)
            self.admitted_s.append(trio.current_time() - began_s)
        with trio.move_on_after(TELL_S):
            for event in informed:
                await event.wait()

    async def _visit(self, informed: trio.Event) -> None:
        async def visit() -> None:
            began_s = trio.current_time()
            async with connect_client(self._port, or_queued=True) as client:
                self.told_s.append(trio.current_time() - began_s)
                informed.set()
                if client.closed.is_set():
                    raise ViolationError(f"a client was rejected ({', '.join(client.errors)})")
                leave = self._clients[client] = trio.Event()
                self._all.append(client)
                await client.send_audio(stop=leave)
                await client.close()

        self.violations += [str(error) for error in await errors_of(visit)]
        informed.set()

    async def measure(self, seconds: float) -> dict[str, Any]:
        """The quality of those that run throughout `seconds`, once a new load has settled."""
        await trio.sleep(self._settle_s)
        waiting = self.waiting
        before = {client: counts_of(client) for client in self.running}
        await trio.sleep(seconds)
        after = {client: counts_of(client) for client in self.running if client in before}
        seen = [now.since(before[client]) for client, now in after.items()]
        return {
            "offered": len(self._clients),
            "running": len(self.running),
            "waiting": max(waiting, self.waiting),
            **quality(seen),
        }


def counts_of(client: LoadClient) -> Counts:
    """The counts now; frames that are in flight count as answered."""
    counts = client.counts
    in_flight = sum(
        1 for index, _ in client.state.unanswered.values() if index >= counts.frames_in - IN_FLIGHT
    )
    return Counts(counts.frames_in, counts.frames_out + in_flight, counts.gaps)


def quality(seen: Sequence[Counts]) -> dict[str, Any]:
    """Shares of all their frames, and of the worst session; `holds`: within the bounds."""
    sent = sum(each.sent for each in seen)
    answered = min(1.0, sum(each.answered for each in seen) / sent) if sent else 1.0
    worst = min((min(1.0, each.answered / each.sent) for each in seen if each.sent), default=1.0)
    underruns = sum(each.gaps for each in seen) / sent if sent else 0.0
    return {
        "answered": round(answered, 4),
        "answered_worst": round(worst, 4),
        "underruns": round(underruns, 4),
        "holds": answered >= ANSWERED and underruns < UNDERRUNS,
    }


async def held_by_hand(server: ServerProcess, seconds: float, start: int) -> tuple[int, list[dict[str, Any]]]:
    """The most clients that get good quality on a server that admits them all, from `start` up or down.

    What does not hold is tried a second time: a machine has its moments.
    """
    steps: list[dict[str, Any]] = []
    crowd = Crowd(server.port)

    async def holds(count: int) -> bool:
        await crowd.resize(count)
        for _ in range(2):
            steps.append(await crowd.measure(seconds))
            if steps[-1]["holds"]:
                return True
        return False

    async with trio.open_nursery() as nursery:
        await crowd.run(nursery)
        count = start
        if await holds(count):
            while count < MOST and await holds(count + 1):
                count += 1
        else:
            while count > 0:
                count -= 1
                if count == 0 or await holds(count):
                    break
        await crowd.resize(0)
        nursery.cancel_scope.deadline = trio.current_time() + TELL_S
    return count, steps


async def load_steps(
    server: ServerProcess, capacity: int, seconds: float, *, settle_s: float = SETTLE_S
) -> dict[str, Any]:
    """Offered load up and down, in multiples of `capacity`."""
    crowd = Crowd(server.port, settle_s)
    steps = []
    async with trio.open_nursery() as nursery:
        await crowd.run(nursery)
        for load in (*LOADS, *reversed(LOADS[:-1])):
            before = crowd.put_back_total
            await crowd.resize(max(1, math.ceil(load * max(1, capacity))))
            step = {"times_capacity": load, **await crowd.measure(seconds)}
            _, health = await trio.to_thread.run_sync(server.get, "/health")
            put_back = crowd.put_back_total - before
            steps.append({**step, "put_back": put_back, "limit": health["lanes"]["limit"]})
        await crowd.resize(0)
        nursery.cancel_scope.deadline = trio.current_time() + TELL_S
    return {
        "steps": steps,
        "told_s_max": round(max(crowd.told_s), 2),
        "next_admitted_s": [round(s, 2) for s in crowd.admitted_s],
        "violations": crowd.violations,
    }


def slow_machine(
    config: Source,
    settings: Sequence[str],
    share: float,
    seconds: float,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a server that gets `share` of the processor; `seconds` for each step."""
    with processor_share(share) as granted:
        automatic = (f"lanes.max={MOST}", "lanes.admit=auto", f"lanes.queue={4 * MOST}", *settings)
        with start_server(config, automatic, prefix=granted.prefix) as server:
            capacity = server.get("/health")[1]["capacity"]
            report(f"{share:g} of the processor: measured {capacity}")
            result = trio.run(partial(load_steps, server, capacity["sessions"], seconds))
            log = server.logged()
        for step in result["steps"]:
            report(str(step))
        start = max(step["running"] for step in result["steps"])
        by_hand = (f"lanes.max={MOST}", f"lanes.admit={MOST}", *settings)
        with start_server(config, by_hand, prefix=granted.prefix) as server:
            held, tried = trio.run(partial(held_by_hand, server, seconds, start))
            log += server.logged()
        report(f"by hand: {held}, of {[(each['offered'], each['holds']) for each in tried]}")
    full = [step["running"] for step in result["steps"] if step["waiting"]]
    return {
        "share": share,
        "cores": round(granted.cores, 2),
        "method": granted.method,
        "measured": capacity,
        "held_by_hand": held,
        "admitted_under_load": [min(full), max(full)] if full else None,
        **result,
        "violations": result["violations"] + [f"logged: {line[:400]}" for line in error_lines(log)],
    }
