"""Laws of the crew: every call has a thread to itself, and what is furthest on goes first. Real threads."""

import threading
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from actors.runtime.pinned_thread import PinnedThread
from actors.runtime.thread_pool import Crew, Member


class Gates:
    """Calls that are let go one by one, and where each of them ran."""

    def __init__(self) -> None:
        self.began: list[tuple[str, str]] = []
        self._gates: dict[str, threading.Event] = {}

    def call(self, name: str) -> str:
        self.began.append((name, threading.current_thread().name))
        gate = self._gates.setdefault(name, threading.Event())
        assert gate.wait(10)
        return name

    def let_go(self, name: str) -> None:
        self._gates.setdefault(name, threading.Event()).set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.began]


def crew_of(threads: int, members: int, stack: ExitStack) -> list[Member]:
    crew = Crew([PinnedThread(f"thread {n}") for n in range(threads)])
    stack.enter_context(crew.running())
    return [stack.enter_context(crew.member(str(n))) for n in range(members)]


async def until(condition) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_with_as_many_threads_as_members_each_keeps_its_own():
    """Whoever is busy beside it, a member's calls run on one thread, which no other member uses."""
    gates, seen = Gates(), []
    with ExitStack() as stack:
        members = crew_of(3, 3, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(members[0].run, gates.call, "busy")
            await until(lambda: gates.names)
            for _ in range(3):
                for member in members[1:]:
                    seen.append(await member.run(lambda: threading.current_thread().name))
                    await trio.testing.wait_all_tasks_blocked()
            gates.let_go("busy")
    assert seen == ["thread 1", "thread 2"] * 3
    assert gates.began == [("busy", "thread 0")]


async def test_who_is_furthest_downstream_goes_first():
    """Of those who wait for the one thread the last to have joined is served first, however late it asked."""
    gates = Gates()
    with ExitStack() as stack:
        members = crew_of(1, 3, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(members[1].run, gates.call, "begun")
            await until(lambda: gates.names)
            for number in (0, 1, 2):
                nursery.start_soon(members[number].run, gates.call, f"waits {number}")
                await trio.testing.wait_all_tasks_blocked()
            for name in ("begun", "waits 0", "waits 1", "waits 2"):
                gates.let_go(name)
    assert gates.names == ["begun", "waits 2", "waits 1", "waits 0"]


async def test_a_thread_waits_for_who_is_woken_by_what_it_computed():
    """The actor that a result wakes asks in time to go before one upstream that has asked already."""
    gates, send = Gates(), trio.Event()
    with ExitStack() as stack:
        members = crew_of(1, 3, stack)

        async def middle() -> None:
            await members[1].run(gates.call, "step")
            send.set()

        async def last() -> None:
            await send.wait()
            await members[2].run(gates.call, "decode")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(middle)
            nursery.start_soon(last)
            await until(lambda: gates.names)
            nursery.start_soon(members[0].run, gates.call, "encode")
            await trio.testing.wait_all_tasks_blocked()
            for name in ("step", "decode", "encode"):
                gates.let_go(name)
    assert gates.names == ["step", "decode", "encode"]


async def test_who_gives_up_waiting_leaves_no_trace():
    """A cancelled wait neither keeps a thread nor is given one."""
    gates = Gates()
    with ExitStack() as stack:
        first, second = crew_of(1, 2, stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run, gates.call, "busy")
            await until(lambda: gates.names)
            with trio.move_on_after(0) as scope:
                await second.run(gates.call, "never")
            assert scope.cancelled_caught
            gates.let_go("busy")
        assert await second.run(lambda: "again") == "again"
    assert gates.names == ["busy"]


async def test_a_call_that_fails_gives_its_thread_back():
    """What it raised is its caller's; the next call has the thread."""

    def fail() -> None:
        raise LookupError("no such row")

    with ExitStack() as stack:
        (member,) = crew_of(1, 1, stack)
        with pytest.raises(LookupError, match="no such row"):
            await member.run(fail)
        assert await member.run(lambda: 1) == 1


async def test_a_turn_is_kept_until_it_is_left():
    """Between two calls of one turn nobody else's runs."""
    seen: list[str] = []
    with ExitStack() as stack:
        first, second = crew_of(1, 2, stack)
        async with trio.open_nursery() as nursery, first.turn() as place:
            await place.run(seen.append, "one")
            nursery.start_soon(second.run, seen.append, "other")
            await trio.testing.wait_all_tasks_blocked()
            await place.run(seen.append, "two")
    assert seen == ["one", "two", "other"]
