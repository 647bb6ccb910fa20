"""The pinned thread: one thread, calls in order, never half a result. Real threads, no sleeps."""

import threading

import pytest
import trio
import trio.testing

from actors.runtime.pinned_thread import PinnedThread
from pipeline.errors import ThreadStalledError


async def test_every_call_runs_on_the_same_thread_in_order():
    """Calls made at once run one after another, on one thread that is not this one."""
    seen: list[tuple[int, int]] = []

    def note(number: int) -> int:
        seen.append((number, threading.get_ident()))
        return number * 2

    with PinnedThread("t") as thread:
        assert await thread.run(note, 0) == 0
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(thread.run, note, number)
                await trio.testing.wait_all_tasks_blocked()
    assert [number for number, _ in seen] == list(range(6))
    assert len({ident for _, ident in seen}) == 1
    assert seen[0][1] != threading.get_ident()


async def test_an_exception_is_raised_in_the_caller_and_the_thread_continues():
    """What a call raises is raised where the call was made."""

    def fail() -> None:
        raise LookupError("no such row")

    with PinnedThread("t") as thread:
        with pytest.raises(LookupError, match="no such row"):
            await thread.run(fail)
        assert await thread.run(lambda: 1) == 1


async def test_a_cancelled_caller_waits_for_its_result():
    """A call that has begun is not abandoned: its caller still gets the result."""
    gate = threading.Event()
    results: list[str] = []
    with PinnedThread("t") as thread:
        async with trio.open_nursery() as nursery:

            async def call():
                results.append(await thread.run(lambda: "whole" if gate.wait(10) else "late"))
                await trio.lowlevel.checkpoint()
                results.append("not reached")

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                assert results == []
            gate.set()
    assert results == ["whole"]


async def test_cancelled_beforehand_nothing_is_called():
    """A caller that is cancelled already makes no call."""
    called = []
    with PinnedThread("t") as thread, trio.CancelScope() as scope:
        scope.cancel()
        await thread.run(called.append, 1)
    assert scope.cancelled_caught
    assert called == []


async def test_a_stalled_call_is_reported_and_not_waited_for():
    """A call that does not return in time raises, and leaving the thread does not wait for it."""
    gate = threading.Event()
    try:
        with pytest.raises(ThreadStalledError) as caught, PinnedThread("decoder") as thread:
            await thread.run(gate.wait, stall_s=0.02)
        assert caught.value.thread == "decoder"
        assert caught.value.stall_s == 0.02
    finally:
        gate.set()


async def test_a_stalled_call_is_reported_even_if_its_caller_was_cancelled():
    """Cancellation does not hide that the thread is lost."""
    gate = threading.Event()
    try:
        with PinnedThread("t") as thread, trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()

            def cancel_and_hang() -> None:
                trio.from_thread.run_sync(scope.cancel, trio_token=token)
                gate.wait()

            with pytest.raises(ThreadStalledError):
                await thread.run(cancel_and_hang, stall_s=0.05)
            assert scope.cancel_called
    finally:
        gate.set()


async def test_with_abandon_on_cancel_a_caller_is_cancelled_at_once():
    """It does not wait for the call, and neither does leaving the thread."""
    gate = threading.Event()
    try:
        with PinnedThread("t") as thread:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: thread.run(gate.wait, abandon_on_cancel=True))
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    finally:
        gate.set()


async def test_leaving_ends_the_thread():
    """Nothing runs after the context."""
    with PinnedThread("t") as thread:
        worker = await thread.run(threading.current_thread)
        assert worker.name == "t"
        assert worker.daemon
    assert not worker.is_alive()
