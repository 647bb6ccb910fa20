"""A watchdog does not count the absence of its own process."""

import ast
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from support.actors.frozen_process import FrozenProcess

from actors.runtime import awake_clock
from actors.runtime.awake_clock import ABSENT_S, awake_time
from actors.runtime.pinned_thread import PinnedThread
from pipeline.errors import ThreadStalledError


def test_an_absence_does_not_count():
    """`awake_time` stands still while the process is suspended, and goes on otherwise."""
    process = FrozenProcess()

    async def main():
        began_s = awake_time()
        process.suspend(12)
        await trio.lowlevel.checkpoint()
        assert awake_time() - began_s == pytest.approx(0)
        process.trio.jump(0.5)
        assert awake_time() - began_s == pytest.approx(0.5)

    process.run(main)


def test_a_tracked_deadline_moves_by_the_absence():
    """Before Trio finds it expired."""
    process = FrozenProcess()

    async def main():
        with awake_clock.move_on_after(10) as scope:
            process.suspend(11.5)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
        assert scope.deadline == pytest.approx(21.5)

    process.run(main)


def test_a_tracked_deadline_still_expires():
    """What the process was awake for counts: a call that hangs is found out."""
    process = FrozenProcess()

    async def main():
        with awake_clock.move_on_after(10) as scope:
            process.trio.jump(10 + ABSENT_S)
            await trio.sleep_forever()
        assert scope.cancelled_caught

    process.run(main)


def test_a_thread_is_not_given_up_for_an_absence():
    """Frozen for longer than `stall_s` in the middle of a call, the thread still finishes it."""
    process, may_return = FrozenProcess(), threading.Event()

    async def main():
        async def suspend():
            await trio.testing.wait_all_tasks_blocked()
            process.suspend(11.5)
            await trio.lowlevel.checkpoint()
            may_return.set()

        with PinnedThread("model") as thread:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(suspend)
                assert await thread.run(may_return.wait, stall_s=10)

    process.run(main)


def test_a_thread_that_hangs_is_given_up():
    """The watchdog still does its work."""
    process, may_return = FrozenProcess(), threading.Event()

    async def main():
        async def wait():
            await trio.testing.wait_all_tasks_blocked()
            process.trio.jump(11)

        with PinnedThread("model") as thread:
            with pytest.RaisesGroup(ThreadStalledError):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await thread.run(may_return.wait, stall_s=10)
            may_return.set()

    process.run(main)


# Deadlines in which an absence may count, by file and function. Each ends nothing that a person would miss.
ABSENCE_COUNTS = {
    ("actors/hub_proxy/client.py", "fetch"): "one request of a page, which repeats it",
    ("actors/hub_proxy/download.py", "_should_continue"): "a download that nobody reads goes on later",
    ("pipeline/cli/talk.py", "talk"): "a server that is full is asked again",
    ("web/routes/haproxy_agent.py", "_reply"): "a balancer asks again",
    ("web/routes/selftest.py", "_probe"): "a test of the hub's speed",
    ("web/server/socket_stream.py", "close_gracefully"): "everything was said before it",
}


def deadlines():
    """(file, function) of each deadline of Trio's in what serves and in the client."""
    root = Path(__file__).parents[3]
    for folder in ("actors", "web", "pipeline/client", "pipeline/cli", "pipeline/protocol"):
        for path in sorted((root / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                    isinstance(node, ast.Attribute)
                    and node.attr in {"move_on_after", "move_on_at", "fail_after", "fail_at"}
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "trio"
                    for node in ast.walk(function)
                ):
                    yield path.relative_to(root).as_posix(), function.name


def test_no_other_deadline_counts_an_absence():
    """A new one is kept in awake time, or is entered above with the reason why that does not matter."""
    assert set(deadlines()) <= set(ABSENCE_COUNTS)
