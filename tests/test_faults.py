"""Clients that die, networks that break, servers that are stopped: as real processes and sockets.

A conversation beside every fault must not be affected: each of its frames is answered.
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

from pipeline.loadtest.client import connect_client
from pipeline.loadtest.monitor import ServerMonitor, error_lines
from pipeline.loadtest.scenarios import stall
from pipeline.loadtest.server_process import ServerProcess, start_server

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests/data/speech.wav"
QUICK = (
    "lanes.max=3",
    "lanes.admit=3",
    "heartbeat.every_s=0.3",
    "heartbeat.timeout_s=1.5",
    "limits.resume_grace_ms=200",
    "drain_s=2",
)
HANG_S = 150  # turns a hang into a failure; no test depends on it
GRACE_S = 0.2


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[ServerProcess]:
    with start_server(checkpoint, QUICK) as server:
        yield server


async def health(server: ServerProcess) -> dict:
    _, body = await trio.to_thread.run_sync(server.get, "/health")
    return body


async def until(server: ServerProcess, holds) -> dict:
    """Wait until `holds` is true of /health, and return it; the test has a deadline of its own."""
    while not holds(now := await health(server)):  # noqa: ASYNC110 - of another process
        await trio.sleep(0.05)
    return now


@asynccontextmanager
async def beside_a_neighbour(server: ServerProcess):
    """Run the block beside a conversation: that is answered throughout, and nothing leaks."""
    with trio.fail_after(HANG_S):
        monitor = ServerMonitor(server, grace_s=GRACE_S)
        await monitor.take_baseline()
        async with connect_client(server.port) as neighbour, trio.open_nursery() as nursery:
            stop = trio.Event()

            async def talk() -> None:
                await neighbour.send_audio(stop=stop)
                await neighbour.finish()

            nursery.start_soon(talk)
            yield monitor
            stop.set()
        assert neighbour.counts.frames_out > 0
        assert await monitor.violations() == []


@asynccontextmanager
async def talk_process(server: ServerProcess, tmp_path: Path):
    """The talk command in a process, in the middle of its speech; it is killed at the end."""
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
    """How many sessions ended between the two, by reason."""
    return {
        reason: count - before["endings"].get(reason, 0)
        for reason, count in after["endings"].items()
        if count > before["endings"].get(reason, 0)
    }


async def test_a_client_that_is_killed_leaves_nothing_behind(server, tmp_path):
    """`kill -9` in the middle of speech: its lane, tasks and sockets are freed; no other client notices."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with talk_process(server, tmp_path) as process:
            process.kill()
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"peer_closed": 1}


async def test_a_frozen_client_is_closed(server, tmp_path):
    """A stopped process, as on a closed laptop, neither reads nor writes nor closes: its session ends."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with talk_process(server, tmp_path) as process:
            process.send_signal(signal.SIGSTOP)
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"silent": 1}


async def test_a_reset_within_a_frame_ends_the_session(server):
    """In the middle of a WebSocket frame; no other session is affected."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with connect_client(server.port) as victim:
            await victim.send_audio(3)
            await victim.send_partial_frame()
            victim.reset_connection()
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"peer_closed": 1}


async def test_silence_within_a_frame_ends_the_session(server):
    """Half a frame and then nothing more, not even an end: the session is closed as silent."""
    async with beside_a_neighbour(server):
        before = await health(server)
        async with connect_client(server.port) as victim:
            await victim.send_audio(3)
            await victim.send_partial_frame()
            after = await until(server, lambda now: now["lanes"]["open"] == before["lanes"]["open"])
        assert ended(before, after) == {"silent": 1}


async def test_a_client_that_leaves_the_queue_makes_room(server):
    """One that is cut off while it waits for a lane lets the next one move up."""
    with trio.fail_after(HANG_S):
        monitor = ServerMonitor(server, grace_s=GRACE_S)
        await monitor.take_baseline()
        async with trio.open_nursery() as nursery:
            admitted: dict[str, list[bool]] = {"first": [], "second": []}
            stop = trio.Event()

            async def hold() -> None:
                async with connect_client(server.port) as client:
                    await client.send_audio(stop=stop)
                    await client.finish()

            async def wait(who: str) -> None:
                async with connect_client(server.port) as client:
                    admitted[who].append(client.ready.is_set())
                    await client.send_audio(3)
                    await client.finish()

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
        assert admitted == {"first": [], "second": [True]}
        assert await monitor.violations() == []


async def test_a_server_that_was_stopped_reports_what_it_dropped(server):
    """Stopped for a second with two sessions: every frame is answered, or reported as dropped."""
    with trio.fail_after(HANG_S):
        result = await stall(server, 2, 1.0, calm_s=1.0, aftermath_s=1.0)
    assert result["violations"] == []
    assert result["reported_dropped"]["audio"] > 0


async def test_a_server_that_was_stopped_for_longer_than_a_watchdog_waits_goes_on(checkpoint):
    """Neither the process nor a session ends: nobody is late who could not run."""
    settings = (*QUICK, "stall_s=1", "limits.send_timeout_s=1")
    with trio.fail_after(HANG_S), start_server(checkpoint, settings) as server:
        result = await stall(server, 2, 4.0, calm_s=1.0, aftermath_s=1.0)
        assert result["violations"] == []
        assert await trio.to_thread.run_sync(server.stop) == 0


async def test_sigterm_under_load_informs_every_client(checkpoint):
    """Those with a lane and those in the queue get `draining` and 1001, and the process ends with 0."""
    with trio.fail_after(HANG_S), start_server(checkpoint, QUICK) as server:
        async with trio.open_nursery() as nursery:
            there = []

            async def talk() -> None:
                async with connect_client(server.port) as client:
                    there.append(client)
                    await client.send_audio()
                    await client.closed.wait()

            for _ in range(5):
                nursery.start_soon(talk)
            await until(server, lambda now: now["lanes"]["queued"] == 2 and now["metrics"]["framesOut"] > 20)
            os.kill(server.pid, signal.SIGTERM)
        assert await trio.to_thread.run_sync(server.wait) == 0
        assert len(there) == 5
        for client in there:
            assert client.draining
            assert client.close_code == 1001
            assert not client.errors
            assert client.frames_skipped == client.counts.dropped["audio"]
        assert error_lines(server.logged()) == []


async def test_a_model_thread_that_hangs_ends_the_process(checkpoint, tmp_path):
    """It cannot be interrupted: clients get an error and 1011, and the exit code is 70."""
    sign = tmp_path / "hang"
    program = ("-m", "tests.support.hanging_server", str(sign))
    with trio.fail_after(HANG_S), start_server(checkpoint, (*QUICK, "stall_s=1"), program=program) as server:
        async with connect_client(server.port) as client:
            await client.send_audio(5)
            sign.touch()
            await client.send_audio()
            await client.closed.wait()
        assert client.errors
        assert client.close_code == 1011
        assert await trio.to_thread.run_sync(server.wait) == 70
