"""How much work one client may cause: events and processor time per second, in fair turns.

Limits on bytes and connections do not limit work: 64 KiB hold ten thousand empty frames. So events
(frames, chunks, requests) are counted, and the processor time of all tasks of a connection is
measured. Who is over budget is not read until the budget is refilled. A new connection costs nothing, so
handshakes and HTTP requests share one budget per address. A WebSocket has a budget of its own. And all
that comes from one address shares another one, in turns: a connection that is idle now and then catches
up in its turn, one that never stops does not.

The processor time is that of the thread, so a busy machine is not held against a client. It is taken
from the budget of the connection in whose context a task was started; what another thread does for a client,
such as decoding its audio, is charged by whoever has it done.

Neighbours: `web.server.connection`, `http11` and `websocket` take the turns; `web.security.rate_limit`
counts connections and failures. What does not belong here: what a session does with a message.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import trio

from actors.runtime import awake_clock
from actors.runtime.awake_clock import awake_time
from pipeline.config import Limits

BURST_S: Final = 2.0  # of an unused budget that can be used at once
TURN_EVENTS: Final = 16  # between two checkpoints
TURN_S: Final = 0.001  # of processor time, charged ahead for a turn whose cost is not known yet
PATIENCE_S: Final = 2.0  # over budget for this long without a pause: the client does not stop
CONNECT_PATIENCE_S: Final = 1.0  # of an address over budget for longer, no connection is accepted
REQUEST_PATIENCE_S: Final = 5.0  # a request that has waited this long for its turn is refused
RESOLUTION_S: Final = 1e-6  # no wait is shorter
MAX_ADDRESSES: Final = 4096
_UNLIMITED: Final = 1e12

Headers = Iterable[tuple[bytes, bytes]]


class Allowance:
    """A quantity per second, refilled with time up to `BURST_S` of it; it may be overdrawn."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._level = per_s * BURST_S
        self._at_s = trio.current_time()

    def spend(self, amount: float) -> None:
        """Take an amount, whether it is there or not."""
        self._refill()
        self._level -= amount

    def wait_s(self) -> float:
        """How long until nothing is overdrawn any more; 0 now."""
        self._refill()
        return -self._level / self._per_s if self._level < -self._per_s * RESOLUTION_S else 0.0

    def _refill(self) -> None:
        now_s = trio.current_time()
        self._level = min(self._per_s * BURST_S, self._level + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s


class WorkBudget:
    """The events and the processor time of a WebSocket, of the requests of an address, or of an address."""

    def __init__(self, *, events_per_s: float, processor_share: float) -> None:
        self._events = Allowance(events_per_s)
        self._processor = Allowance(processor_share)
        self._turns = trio.Lock()  # first come, first served

    def add_event(self) -> None:
        """One frame, chunk or request."""
        self._events.spend(1)

    def add_processor_s(self, processor_s: float) -> None:
        """Time that the processor has spent."""
        self._processor.spend(processor_s)

    def wait_s(self) -> float:
        """How long until the next turn, if nobody else waits."""
        return max(self._events.wait_s(), self._processor.wait_s())

    async def take_turn(self, cost_s: float = TURN_S) -> None:
        """Wait for a turn, charged ahead with `cost_s`; always a checkpoint."""
        async with self._turns:
            while (wait_s := self.wait_s()) > 0:  # noqa: ASYNC110 - time refills it, and nothing else
                await trio.sleep(wait_s)
            self._processor.spend(cost_s)


@dataclass(frozen=True, slots=True)
class Reports:
    """Called when a client does not stop; with (protocol, kind, detail) of what cannot be parsed."""

    flood: Callable[[], None]
    bad_input: Callable[[str, str, str], None]


class ConnectionWork:
    """The work of one connection.

    Args:
        requests: the budget of its address, until it is a WebSocket.
        websocket: its own, from then on.
        shared: budgets that it is charged to as well.
        budgets_of: the budgets of the requests, and of everything, of the client that a proxy names in a
            request's headers.

    Attributes:
        budgets: those that the work is charged to now.
    """

    def __init__(
        self,
        requests: WorkBudget,
        websocket: WorkBudget,
        shared: tuple[WorkBudget, ...],
        reports: Reports,
        budgets_of: Callable[[Headers], tuple[WorkBudget, WorkBudget] | None] = lambda _: None,
    ) -> None:
        self.budgets = (requests, *shared)
        self._websocket = (websocket, *shared)
        self._budgets_of = budgets_of
        self._reports = reports
        self._events = 0
        self._behind_since_s = math.inf

    def begin_request(self, headers: Headers) -> None:
        """Charge what follows to the client of this request, if a proxy names one."""
        found = self._budgets_of(headers)
        if found is not None:
            self.budgets = found
            self._websocket = (self._websocket[0], found[1])

    def upgrade(self) -> None:
        """The connection is a WebSocket from now on."""
        self.budgets = self._websocket

    def charge(self, processor_s: float) -> None:
        """Time that a processor has spent elsewhere than in a task of this connection."""
        for budget in self.budgets:
            budget.add_processor_s(processor_s)

    def caught_up(self) -> None:
        """Everything that had arrived has been handled."""
        self._behind_since_s = math.inf

    def report_bad_input(self, protocol: str, kind: str, detail: str) -> None:
        """The peer sent what a library could not parse."""
        self._reports.bad_input(protocol, kind, detail)

    async def begin(self) -> None:
        """Wait for a turn to be served at all, after the other new connections of this address.

        So one of them begins in a turn of the event loop, however many there are, and the turns stay short:
        a frame or a request of somebody else takes several of them on its way.
        """
        await self.budgets[0].take_turn(cost_s=0.0)  # what it does is charged when it is done

    async def before_read(self) -> None:
        """Wait while over budget: what arrives may cost work and be no event, such as a record of TLS."""
        for budget in self.budgets:
            if budget.wait_s():
                await budget.take_turn()

    async def after_event(self) -> bool:
        """Count one event, and wait while over budget; False where the client does not stop."""
        self._add_event()
        self._events += 1
        is_over = any(budget.wait_s() for budget in self.budgets)
        if self._events < TURN_EVENTS and not is_over:
            return True
        self._events = 0
        if is_over:
            self._behind_since_s = min(self._behind_since_s, awake_time())
        with awake_clock.move_on_after(self._behind_since_s + PATIENCE_S - awake_time()):
            await self._take_turns()
            return True
        self._reports.flood()
        return False

    async def wait_for_request_turn(self) -> bool:
        """Wait for the turn of a request or handshake; False where it has waited too long."""
        self._add_event()
        with awake_clock.move_on_after(REQUEST_PATIENCE_S):
            await self._take_turns()
            return True
        self._reports.flood()
        return False

    def _add_event(self) -> None:
        for budget in self.budgets:
            budget.add_event()

    async def _take_turns(self) -> None:
        for budget in self.budgets:
            await budget.take_turn()


class WorkBudgets:
    """The budgets of all clients, and the instrument that measures their processor time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._addresses: OrderedDict[str, tuple[WorkBudget, WorkBudget]] = OrderedDict()
        self.meter = ProcessorMeter()

    def connection(
        self,
        address: str | None,
        reports: Reports,
        client_of: Callable[[Headers], str | None] | None = None,
    ) -> ConnectionWork:
        """The work of a new connection from this address; None: from a proxy, which shares with nobody.

        Its clients do, as far as `client_of` finds the address of one in the headers of a request. Tasks
        started from now on by the calling task are measured.
        """

        def budgets_of(headers: Headers) -> tuple[WorkBudget, WorkBudget] | None:
            client = None if client_of is None else client_of(headers)
            return None if client is None else self._of_address(client)

        own = WorkBudget(
            events_per_s=self._limits.events_per_second, processor_share=self._limits.processor_share
        )
        if address is None:
            work = ConnectionWork(self._new_address()[0], own, (), reports, budgets_of)
        else:
            requests, total = self._of_address(address)
            work = ConnectionWork(requests, own, (total,), reports)
        _work.set(work)
        return work

    def is_hopeless(self, address: str) -> bool:
        """Whether a new connection of this address would only wait: accepting it costs the others' time."""
        budgets = self._addresses.get(address, ())
        return any(budget.wait_s() > CONNECT_PATIENCE_S for budget in budgets)

    def _of_address(self, address: str) -> tuple[WorkBudget, WorkBudget]:
        """The budgets of its requests, and of everything."""
        budgets = self._addresses.get(address)
        if budgets is None:
            budgets = self._addresses[address] = self._new_address()
        self._addresses.move_to_end(address)
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return budgets

    def _new_address(self) -> tuple[WorkBudget, WorkBudget]:
        shares = self._limits.requests_processor_share, self._limits.address_processor_share
        requests, total = (WorkBudget(events_per_s=_UNLIMITED, processor_share=share) for share in shares)
        return requests, total


class ProcessorMeter(trio.abc.Instrument):
    """Charges each step of a task to the connection that it belongs to, and the loop's own work before it."""

    def __init__(self) -> None:
        self._last_s = time.thread_time()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure while the block runs."""
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Charge the time since the step before: reading the clock once a step is half the cost."""
        now_s = time.thread_time()
        work = task.context.get(_work)
        if work is not None:
            work.charge(now_s - self._last_s)
        self._last_s = now_s


_work: ContextVar[ConnectionWork | None] = ContextVar("_work", default=None)
