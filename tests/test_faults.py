"""Clients that die, networks that break, servers that are told to stop: each as real processes and sockets.

Beside every fault goes a conversation that must not feel it: each of its frames is answered.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from pipeline.loadtest.client import talking
from pipeline.loadtest.monitor import Watch, troubles
from pipeline.loadtest.scenarios import stall
from pipeline.loadtest.server_process import Booted, boot

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests/data/speech.wav"
QUICK = (
    "lanes.max=3",
    "heartbeat.every_s=0.3",
    "heartbeat.timeout_s=1.5",
    "limits.resume_grace_ms=200",
    "drain_s=2",
)
HANG_S = 45  # no law is about this number: it turns a hang into a failure
GRACE_S = 0.2


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Booted]:
    with boot(checkpoint, QUICK) as booted:
        yield booted


async def health(server: Booted) -> dict:
    _, body = await trio.to_thread.run_sync(server.get, "/health")
    return body


async def until(server: Booted, holds) -> dict:
    """The first /health for which `holds`; the test's own deadline says how long that may take."""
    while not holds(now := await health(server)):  # noqa: ASYNC110 - of another process
        await trio.sleep(0.05)
    return now


@asynccontextmanager
async def beside_a_neighbour(server: Booted):
    """Whatever happens in the block, a conversation beside it is answered, and nothing leaks."""
    with trio.fail_after(HANG_S):
        watch = Watch(server, grace_s=GRACE_S)
        await watch.begin()
        async with talking(server.port) as neighbour, trio.open_nursery() as nursery:
            stop = trio.Event()

            async def talk() -> None:
                await neighbour.speak(stop=stop)
                await neighbour.part()

            nursery.start_soon(talk)
            yield watch
            stop.set()
        assert neighbour.account.frames_out > 0
        assert await watch.end() == []


@asynccontextmanager
async def talk_process(server: Booted, tmp_path: Path):
    """The talk command in a process of its own, in the middle of its speech; it is dead at the end."""
    command = [sys.executable, "-m", "pipeline", "talk", "--url", server.socket_url]
    command += ["--in", str(SPEECH), "--out", str(tmp_path / "answer.wav")]
    before = (await health(server))["lanes"]["open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # noqa: ASYNC220
        try:
            await until(server, lambda now: now["lanes"]["open"] > before or process.poll() is not None)
            assert process.poll() is None, process.stdout.read()
            yield process
        finally:
            process.kill()


def ended(before: dict, after: dict) -> dict[str, int]:
    """How sessions ended in between."""
    return {
        reason: count - before["endings"].get(reason, 0)
        for reason, count in after["endings"].items()
        if count > before["endings"].get(reason, 0)
    }


async def test_a_client_that_is_killed_leaves_nothing_behind(server, tmp_path):
    """kill −9 in the middle of speech: its lane, tasks and sockets come back, and nobody else feels it."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with talk_process(server, tmp_path) as process:
            process.kill()
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"peer_closed": 1}


async def test_a_client_that_is_frozen_is_given_up(server, tmp_path):
    """A process that is stopped, as by a closed lid, neither reads nor speaks nor closes: it is let go."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with talk_process(server, tmp_path) as process:
            process.send_signal(signal.SIGSTOP)
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"silent": 1}


async def test_a_network_that_breaks_within_a_frame_is_noticed(server):
    """A reset in the middle of a WebSocket frame ends that session alone."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with talking(server.port) as victim:
            await victim.speak(3)
            await victim.fall_silent()
            victim.break_off()
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"peer_closed": 1}


async def test_a_network_that_falls_silent_within_a_frame_is_noticed(server):
    """Half a frame and then nothing more, not even an end: the session is closed as silent."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with talking(server.port) as victim:
            await victim.speak(3)
            await victim.fall_silent()
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"silent": 1}


async def test_who_leaves_the_queue_is_passed_over(server):
    """A client that is cut off while it waits for a lane makes room for the one behind it."""
    with trio.fail_after(HANG_S):
        watch = Watch(server, grace_s=GRACE_S)
        await watch.begin()
        async with trio.open_nursery() as nursery:
            told: dict[str, list[bool]] = {"first": [], "second": []}
            stop = trio.Event()

            async def hold() -> None:
                async with talking(server.port) as talker:
                    await talker.speak(stop=stop)
                    await talker.part()

            async def wait(who: str) -> None:
                async with talking(server.port) as talker:
                    told[who].append(talker.ready.is_set())
                    await talker.speak(3)
                    await talker.part()

            for _ in range(3):
                nursery.start_soon(hold)
            await until(server, lambda now: now["lanes"]["open"] == 3)
            impatient = trio.CancelScope()

            async def leave() -> None:
                with impatient:
                    await wait("first")

            nursery.start_soon(leave)
            await until(server, lambda now: now["lanes"]["queued"] == 1)
            nursery.start_soon(wait, "second")
            await until(server, lambda now: now["lanes"]["queued"] == 2)
            impatient.cancel()
            await until(server, lambda now: now["lanes"]["queued"] == 1)
            stop.set()
        assert told == {"first": [], "second": [True]}
        assert await watch.end() == []


async def test_a_server_that_stood_still_says_what_it_dropped(server):
    """Stopped for a second under two sessions: every frame is answered, or told to be dropped."""
    with trio.fail_after(HANG_S):
        result = await stall(server, 2, 1.0, calm_s=1.0, aftermath_s=1.0)
    assert result["laws"] == []
    assert result["told_dropped"]["audio"] > 0


async def test_sigterm_under_load_tells_everybody(checkpoint):
    """All who talk and all who wait are told, closed with 1001, and the process ends with 0."""
    with trio.fail_after(HANG_S), boot(checkpoint, QUICK) as server:
        async with trio.open_nursery() as nursery:
            there = []

            async def talk() -> None:
                async with talking(server.port) as talker:
                    there.append(talker)
                    await talker.speak()
                    await talker.closed.wait()

            for _ in range(5):
                nursery.start_soon(talk)
            await until(server, lambda now: now["lanes"]["queued"] == 2 and now["metrics"]["framesOut"] > 20)
            os.kill(server.pid, signal.SIGTERM)
        assert await trio.to_thread.run_sync(server.ended) == 0
        assert len(there) == 5
        for talker in there:
            assert talker.draining
            assert talker.close_code == 1001
            assert not talker.errors
            assert talker.passed_over == talker.account.dropped["audio"]
        assert troubles(server.logged()) == []


async def test_a_model_thread_that_hangs_ends_the_process(checkpoint, tmp_path):
    """It cannot be interrupted: clients are told and closed with 1011, and the exit code is 70."""
    sign = tmp_path / "hang"
    program = (str(ROOT / "tests/support/hanging_server.py"), str(sign))
    with trio.fail_after(HANG_S), boot(checkpoint, (*QUICK, "stall_s=1"), program=program) as server:
        async with talking(server.port) as talker:
            await talker.speak(5)
            sign.touch()
            await talker.speak()
            await talker.closed.wait()
        assert talker.errors
        assert talker.close_code == 1011
        assert await trio.to_thread.run_sync(server.ended) == 70
