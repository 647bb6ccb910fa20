"""A pinned thread runs every call on one OS thread, in order, and says so loudly when one never returns.

MLX arrays and streams are bound to the thread that made them, so each model actor owns one
of these for life: the thread loads, evaluates and steps. (`trio.to_thread` hands out
whichever thread is idle.) A call cannot be interrupted. What can be done is to wait for it
even when cancelled, so that no result is half used, and to give up on the whole process
when it does not come back.
"""

import contextlib
import math
import queue
import threading
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, TypeVarTuple

import trio

from pipeline.errors import StalledError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """Where a model actor's calls run: one at a time, in places that are all alike."""

    def turn(self) -> contextlib.AbstractAsyncContextManager["Runner"]:
        """Wait for a place that is free, and keep it: what is run there begins at once."""
        ...

    async def run(
        self,
        call: Callable[[*Ts], T],
        *args: *Ts,
        stall_s: float = math.inf,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Run `call(*args)` there; see `PinnedThread.run`."""
        ...


class _Call(Generic[T]):
    """One call on its way to the thread, and its result on the way back."""

    def __init__(self, call: Callable[[], T], token: trio.lowlevel.TrioToken) -> None:
        self._call = call
        self._token = token
        self._value: T | None = None
        self._error: BaseException | None = None
        self.returned = trio.Event()

    def run(self) -> None:
        """On the thread: make the call, then wake the task that waits for it."""
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - carried to the caller, not swallowed
            self._error = error
        with contextlib.suppress(trio.RunFinishedError):  # given up so long ago that nobody is left
            self._token.run_sync_soon(self.returned.set)

    def result(self) -> T:
        """Give what the call returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self._error  # its traceback refers to this very frame
        return self._value  # type: ignore[return-value]  # it is set: the call returned


class PinnedThread:
    """One OS thread for life, as a context manager; leaving it waits for the thread, unless it was given up.

    `staying`: around everything the thread does, made anew on it: where it may run, for one.
    The thread is a daemon: a call that never returns cannot keep the process from ending.
    """

    def __init__(
        self,
        name: str,
        staying: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.name = name
        self._staying = staying
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator["PinnedThread"]:
        """Nobody else's calls are waited for: the thread has one owner."""
        yield self

    async def run(
        self,
        call: Callable[[*Ts], T],
        *args: *Ts,
        stall_s: float = math.inf,
        abandon_on_cancel: bool = False,
    ) -> T:
        """Run `call(*args)` on the thread, after the calls before it; its result or exception is ours.

        Cancelled beforehand, nothing is called. Cancelled later, the caller is not let go before
        the call returns, and has its result; the cancellation waits for its next checkpoint.
        Unless `abandon_on_cancel`: then it is let go at once, and the thread is given up.

        Raises:
            StalledError: the call did not return within `stall_s`; the thread is given up.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        pending = _Call(lambda: call(*args), trio.lowlevel.current_trio_token())
        self._calls.put(pending.run)
        deadline_s = trio.current_time() + stall_s
        try:
            with trio.CancelScope(shield=not abandon_on_cancel, deadline=deadline_s):
                await pending.returned.wait()
        finally:
            self._given_up |= not pending.returned.is_set()
        if not pending.returned.is_set():
            raise StalledError(self.name, stall_s)
        return pending.result()

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
        with self._staying():
            while (call := self._calls.get()) is not None:
                call()
                del call  # or the last result would live until the next call
