"""One OS thread that runs every call given to it, in order; a call that never returns ends the process.

MLX arrays and streams belong to the thread that made them, so a model is loaded, evaluated and
stepped on one thread. `trio.to_thread` does not promise that: it uses whichever thread is idle. A
call cannot be interrupted. A cancelled caller therefore waits for it, so that no result is half
used, and a call that does not return in time ends the process; time in which the process was
suspended does not count.

Neighbours: `thread_pool` shares a few of these threads among the model actors.
"""

import contextlib
import math
import queue
import threading
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar, TypeVarTuple

import outcome
import trio

from actors.runtime import awake_clock
from pipeline.errors import ThreadStalledError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """Runs a model actor's calls, one at a time, on a thread that may be shared with other actors."""

    def expect(self, is_ready: Callable[[], bool]) -> None:
        """While `is_ready()` holds, the actor is about to acquire a thread."""
        ...

    def acquire(self) -> contextlib.AbstractAsyncContextManager["Runner"]:
        """Wait for a free thread and hold it; calls made through what is returned begin at once."""
        ...

    async def run(
        self,
        call: Callable[[*Ts], T],
        *args: *Ts,
        stall_s: float = math.inf,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Run `call(*args)` on a thread; see `PinnedThread.run`."""
        ...


class PinnedThread:
    """One OS thread, as a context manager. Leaving it waits for the thread, unless a call was given up.

    The thread is a daemon: a call that never returns cannot keep the process from ending.

    Args:
        name: the thread's name.
        around: makes a context manager that is entered on the thread before the first call, for
            example to pin it to a core.
    """

    def __init__(
        self,
        name: str,
        around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.name = name
        self._around = around
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def expect(self, is_ready: Callable[[], bool]) -> None:
        """Does nothing: the thread belongs to one actor."""

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator["PinnedThread"]:
        """Does not wait: the thread belongs to one actor."""
        yield self

    async def run(
        self,
        call: Callable[[*Ts], T],
        *args: *Ts,
        stall_s: float = math.inf,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Run `call(*args)` on the thread, after the calls before it; return or raise what it does.

        Cancelled before it is queued, the call is never made. Cancelled later, this still waits
        for the call and returns its result; the cancellation is raised at the caller's next
        checkpoint. With `abandon_on_cancel` it is raised at once, and the thread is given up.

        Raises:
            ThreadStalledError: the call did not return within `stall_s`; the thread is given up.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        token = trio.lowlevel.current_trio_token()
        returned = trio.Event()
        result: outcome.Maybe[T] | None = None

        def work() -> None:
            nonlocal result
            result = outcome.capture(call, *args)
            with contextlib.suppress(trio.RunFinishedError):  # given up, and the run ended since
                token.run_sync_soon(returned.set)

        self._calls.put(work)
        try:
            with awake_clock.move_on_after(stall_s, shield=not abandon_on_cancel):
                await returned.wait()
        finally:
            self._given_up |= not returned.is_set()
        if result is None:
            raise ThreadStalledError(self.name, stall_s)
        try:
            return result.unwrap()
        finally:
            del result  # an error's traceback holds this frame: without this they form a cycle

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.put(None)
        if not self._given_up:
            self._thread.join()

    def _work(self) -> None:
        with self._around():
            while (call := self._calls.get()) is not None:
                call()
                del call  # its result would otherwise live until the next call
