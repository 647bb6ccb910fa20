"""A crew: a few pinned threads that the model actors share, where there are fewer cores than actors.

Three actors that compute at once on two cores do not finish sooner than two at a time; they
interrupt each other hundreds of times a frame. So each takes a thread for one call, the one it
had last if it can: its caches are warm there. Of those who wait the one furthest downstream
goes first: a frame that is half done is finished before another is begun, or each would wait
three times over. With as many threads as actors each keeps its own.

What a call leaves behind must belong to no thread: evaluated arrays do not.
"""

import bisect
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

import trio

from actors.runtime.pinned_thread import PinnedThread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# After a call its actor hands on the results, and the next one wakes up and asks for a thread.
_PASSES_UNTIL_ASKED = 2


@dataclass(order=True)
class _Asking:
    """One call that waits for a thread; the lowest goes first."""

    rank: int
    number: int
    given: trio.Event = field(default_factory=trio.Event, compare=False)
    thread: PinnedThread | None = field(default=None, compare=False)


class Crew:
    """`threads`, which run while `running` is entered; `member` makes what one actor's calls run on."""

    def __init__(self, threads: Sequence[PinnedThread]) -> None:
        self._threads = threads
        self._idle = list(threads)
        self._asking: list[_Asking] = []
        self._numbers = itertools.count()
        self._members = 0

    @contextlib.contextmanager
    def running(self) -> "Iterator[Crew]":
        """Start the threads; leaving waits for them, as `PinnedThread` does."""
        with contextlib.ExitStack() as stack:
            for thread in self._threads:
                stack.enter_context(thread)
            yield self

    @contextlib.contextmanager
    def member(self, name: str) -> "Iterator[Member]":  # noqa: ARG002 - the threads have names of their own
        """Make an actor's runner; those downstream join later. While it can, it has a thread of its own."""
        joined = self._members
        self._members += 1
        yield Member(self, rank=-joined, first=self._threads[joined % len(self._threads)])

    async def take(self, rank: int, preferred: PinnedThread) -> PinnedThread:
        """Wait for a free thread; `preferred` if it is one."""
        if self._idle:
            thread = preferred if preferred in self._idle else self._idle[0]
            self._idle.remove(thread)
            return thread
        asking = _Asking(rank, next(self._numbers))
        bisect.insort(self._asking, asking)
        try:
            await asking.given.wait()
        except trio.Cancelled:
            if asking.thread is None:
                self._asking.remove(asking)
            else:
                self._pass_on(asking.thread)
            raise
        assert asking.thread is not None
        return asking.thread

    async def give_back(self, thread: PinnedThread) -> None:
        """Let the next one have it, once all who have reason to ask have asked."""
        for _ in range(_PASSES_UNTIL_ASKED):
            await trio.lowlevel.checkpoint()
        self._pass_on(thread)

    def _pass_on(self, thread: PinnedThread) -> None:
        if not self._asking:
            self._idle.append(thread)
            return
        first = self._asking.pop(0)
        first.thread = thread
        first.given.set()


class Member:
    """One actor's turn at the crew's threads."""

    def __init__(self, crew: Crew, rank: int, first: PinnedThread) -> None:
        self._crew = crew
        self._rank = rank
        self._thread = first

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[PinnedThread]:
        """Keep one of the threads; the wait for it is not a stall."""
        self._thread = thread = await self._crew.take(self._rank, self._thread)
        try:
            yield thread
        finally:
            trio.lowlevel.spawn_system_task(self._crew.give_back, thread)

    async def run(
        self,
        call: Callable[[*Ts], T],
        *args: *Ts,
        stall_s: float = math.inf,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Run `call(*args)` on one of the threads; see `PinnedThread.run`."""
        async with self.turn() as thread:
            return await thread.run(call, *args, stall_s=stall_s, abandon_on_cancel=abandon_on_cancel)
