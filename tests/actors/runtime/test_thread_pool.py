"""Every call in the pool has a thread to itself; the actor furthest downstream goes first. Real threads."""

import threading
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from actors.runtime.pinned_thread import PinnedThread
from actors.runtime.thread_pool import PooledRunner, ThreadPool


class Gates:
    """Calls that return one by one, as their gates are opened, and the threads on which they run."""

    def __init__(self) -> None:
        self.began: list[tuple[str, str]] = []
        self._gates: dict[str, threading.Event] = {}

    def call(self, name: str) -> str:
        self.began.append((name, threading.current_thread().name))
        gate = self._gates.setdefault(name, threading.Event())
        assert gate.wait(10)
        return name

    def open(self, name: str) -> None:
        self._gates.setdefault(name, threading.Event()).set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.began]


def pool_of(threads: int, actors: int, stack: ExitStack) -> list[PooledRunner]:
    pool = ThreadPool([PinnedThread(f"thread {n}") for n in range(threads)])
    stack.enter_context(pool.running())
    return [stack.enter_context(pool.runner(str(n))) for n in range(actors)]


async def until(condition) -> None:
    with trio.fail_after(120):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_with_as_many_threads_as_actors_each_keeps_its_own():
    """Whatever else is busy, an actor's calls run on one thread, which no other actor uses."""
    gates, seen = Gates(), []
    with ExitStack() as stack:
        runners = pool_of(3, 3, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runners[0].run, gates.call, "busy")
            await until(lambda: gates.names)
            for _ in range(3):
                for runner in runners[1:]:
                    seen.append(await runner.run(lambda: threading.current_thread().name))
                    await trio.testing.wait_all_tasks_blocked()
            gates.open("busy")
    assert seen == ["thread 1", "thread 2"] * 3
    assert gates.began == [("busy", "thread 0")]


async def test_the_actor_furthest_downstream_goes_first():
    """Of the actors that wait for the one thread the last in the chain goes first, even if it asked last."""
    gates = Gates()
    with ExitStack() as stack:
        runners = pool_of(1, 3, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runners[1].run, gates.call, "begun")
            await until(lambda: gates.names)
            for number in (0, 1, 2):
                nursery.start_soon(runners[number].run, gates.call, f"waits {number}")
                await trio.testing.wait_all_tasks_blocked()
            for name in ("begun", "waits 0", "waits 1", "waits 2"):
                gates.open(name)
    assert gates.names == ["begun", "waits 2", "waits 1", "waits 0"]


async def test_a_thread_is_held_back_for_an_actor_that_is_about_to_ask():
    """An actor that a result wakes goes before one upstream that asked earlier, however late it asks."""
    gates, result, asked = Gates(), trio.Event(), trio.Event()
    with ExitStack() as stack:
        first, middle, last = pool_of(1, 3, stack)

        async def step() -> None:
            async with middle.acquire() as thread:
                await thread.run(gates.call, "step")
                result.set()

        async def decode() -> None:
            await result.wait()
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            asked.set()
            await last.run(gates.call, "decode")

        last.expect(lambda: result.is_set() and not asked.is_set())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(step)
            nursery.start_soon(decode)
            await until(lambda: gates.names)
            nursery.start_soon(first.run, gates.call, "encode")
            await trio.testing.wait_all_tasks_blocked()
            for name in ("step", "decode", "encode"):
                gates.open(name)
    assert gates.names == ["step", "decode", "encode"]


async def test_a_thread_held_back_is_given_away_once_nothing_is_expected():
    """An actor that ends without asking does not keep the thread from the others."""
    with ExitStack() as stack:
        first, last = pool_of(1, 2, stack)
        last.expect(lambda: True)
        ran: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run, ran.append, "encode")
            await trio.testing.wait_all_tasks_blocked()
            assert not ran
            last.expect(lambda: False)
    assert ran == ["encode"]


async def test_with_a_thread_for_each_no_actor_waits_for_an_expected_one():
    """A thread is held back for each expected actor, and no more."""
    with ExitStack() as stack:
        first, last = pool_of(2, 2, stack)
        last.expect(lambda: True)
        with trio.fail_after(120):
            assert await first.run(lambda: "encode") == "encode"


async def test_a_cancelled_wait_leaves_no_trace():
    """A cancelled wait neither keeps a thread nor is given one."""
    gates = Gates()
    with ExitStack() as stack:
        first, second = pool_of(1, 2, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run, gates.call, "busy")
            await until(lambda: gates.names)
            with trio.move_on_after(0) as scope:
                await second.run(gates.call, "never")
            assert scope.cancelled_caught
            gates.open("busy")
        assert await second.run(lambda: "again") == "again"
    assert gates.names == ["busy"]


async def test_a_call_that_fails_returns_its_thread():
    """Its exception is raised in its caller; the next call has the thread."""

    def fail() -> None:
        raise LookupError("no such row")

    with ExitStack() as stack:
        (runner,) = pool_of(1, 1, stack)
        with pytest.raises(LookupError, match="no such row"):
            await runner.run(fail)
        assert await runner.run(lambda: 1) == 1


async def test_an_acquired_thread_is_held_until_it_is_released():
    """Between two calls on one acquired thread no other actor's call runs."""
    seen: list[str] = []
    with ExitStack() as stack:
        first, second = pool_of(1, 2, stack)
        async with trio.open_nursery() as nursery, first.acquire() as thread:
            await thread.run(seen.append, "one")
            nursery.start_soon(second.run, seen.append, "other")
            await trio.testing.wait_all_tasks_blocked()
            await thread.run(seen.append, "two")
    assert seen == ["one", "two", "other"]
