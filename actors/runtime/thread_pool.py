"""A few pinned threads that the model actors share, where there are fewer cores than actors.

Three models that compute at once on two cores do not finish sooner than two at a time: they
preempt each other hundreds of times a frame. So an actor acquires a thread for one batch, the
thread it had last where that is free, because its caches are warm. Of the actors that wait, the
one furthest downstream goes first: otherwise every frame would wait three times. With as many
threads as actors each keeps its own.

An actor that is not waiting yet, but is about to (`Runner.expect`), counts too: a thread is not
given to an actor upstream of it while it is the only one left.

What a call leaves behind must not belong to a thread; evaluated arrays do not.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar, TypeVarTuple

import trio

from actors.runtime.pinned_thread import PinnedThread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ThreadPool:
    """Pinned threads, started by `running`, and the runners of the actors that share them."""

    def __init__(self, threads: Sequence[PinnedThread]) -> None:
        self._threads = threads
        self._idle = list(threads)
        self._runners: list[PooledRunner] = []  # upstream first

    @property
    def size(self) -> int:
        """Number of threads."""
        return len(self._threads)

    @contextlib.contextmanager
    def running(self) -> "Iterator[ThreadPool]":
        """Start the threads; leaving waits for them, as `PinnedThread` does."""
        with contextlib.ExitStack() as stack:
            for thread in self._threads:
                stack.enter_context(thread)
            yield self

    @contextlib.contextmanager
    def runner(self, name: str) -> "Iterator[PooledRunner]":  # noqa: ARG002 - the threads have their own names
        """The runner of one actor. Actors come in the order in which data passes them."""
        runner = PooledRunner(self, preferred=self._threads[len(self._runners) % len(self._threads)])
        self._runners.append(runner)
        yield runner

    def assign(self) -> None:
        """Give idle threads to waiting actors, the furthest downstream first.

        One thread is held back for each actor further downstream that is about to wait.
        """
        expected = 0
        for runner in reversed(self._runners):
            while runner.waiting and len(self._idle) > expected:
                thread = runner.preferred if runner.preferred in self._idle else self._idle[0]
                self._idle.remove(thread)
                runner.grant(thread)
            expected += runner.is_expected

    def release(self, thread: PinnedThread) -> None:
        """Take a thread back, and give it to the next actor."""
        self._idle.append(thread)
        self.assign()


class _Request:
    """One wait for a thread."""

    def __init__(self) -> None:
        self.granted = trio.Event()
        self.thread: PinnedThread | None = None


class PooledRunner:
    """Runs one actor's calls on the threads of a pool. `waiting` holds its requests, oldest first."""

    def __init__(self, pool: ThreadPool, preferred: PinnedThread) -> None:
        self.preferred = preferred
        self.waiting: list[_Request] = []
        self._pool = pool
        self._held = 0
        self._is_ready: Callable[[], bool] = lambda: False

    def expect(self, is_ready: Callable[[], bool]) -> None:
        """While `is_ready()` holds, the actor is about to acquire a thread."""
        self._is_ready = is_ready
        self._pool.assign()  # a thread may have been held back for this actor

    @property
    def is_expected(self) -> bool:
        """Whether the actor has neither a thread nor asked for one, and is about to ask."""
        return not self._held and not self.waiting and self._is_ready()

    def grant(self, thread: PinnedThread) -> None:
        """Grant the oldest request."""
        request = self.waiting.pop(0)
        request.thread = self.preferred = thread
        self._held += 1
        request.granted.set()

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[PinnedThread]:
        """Wait for a thread and hold it; the wait does not count as a stall."""
        request = _Request()
        self.waiting.append(request)
        self._pool.assign()
        try:
            if request.thread is None:
                await request.granted.wait()
            assert request.thread is not None
            yield request.thread
        finally:
            if request.thread is None:
                self.waiting.remove(request)
                self._pool.assign()
            else:
                self._held -= 1
                self._pool.release(request.thread)

    async def run(
        self,
        call: Callable[[*Ts], T],
        *args: *Ts,
        stall_s: float = math.inf,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Run `call(*args)` on one of the threads; see `PinnedThread.run`."""
        async with self.acquire() as thread:
            return await thread.run(call, *args, stall_s=stall_s, abandon_on_cancel=abandon_on_cancel)
