"""The engine admits what it was measured to hold, and a session that is put back loses nothing but time."""

import functools
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.actors.fakes import (
    DELAY,
    Client,
    Inline,
    MemoryTransport,
    expected,
    make_engine,
    serve_client,
    slow_inline,
    speech,
)
from support.actors.frozen_process import FrozenProcess

from actors.capacity import BUSY_ADVICE, HEADROOM, SETTLING_S, Capacity, CapacityControl, widths
from actors.engine import Engine
from actors.sessions.concurrency_limit import OBSERVE_EVERY_S
from actors.sessions.dispatcher import Punctuality
from pipeline.audio.framing import payload_of
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import Configure, Dropped, Queued, Ready
from pipeline.units import FRAME_MS

FRAME_S = FRAME_MS / 1000


async def serving(engine: Engine, nursery: trio.Nursery) -> Engine:
    await nursery.start(engine.run)
    await engine.ready.wait()
    return engine


def admitted(client: Client) -> list[str]:
    return [type(m).__name__ for m in client.metadata if isinstance(m, Ready | Queued)]


@pytest.mark.parametrize(("lanes", "due"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_widths_double_up_to_the_lanes(lanes, due):
    """And the lanes themselves, so that the widest batch that can occur is measured."""
    assert widths(lanes) == due


@pytest.mark.parametrize(
    ("ticks", "sessions", "serves_one"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 60, 16: 90}, 4, True),
        ({1: 10, 2: 20}, 2, True),
        ({1: 10, 2: 12, 4: 14, 8: 24, 16: 60}, 11, True),
        ({1: 40, 2: 30, 4: 100}, 2, True),
        ({1: 60}, 0, True),
        ({1: 300}, 0, False),
        ({}, 16, True),
    ],
)
def test_what_is_held_is_the_widest_tick_with_headroom(ticks, sessions, serves_one):
    """By a straight line between two; a machine that is late even without headroom says what helps."""
    capacity = Capacity(16, ticks)
    assert capacity.sessions == sessions
    assert capacity.serves_one is serves_one
    assert (capacity.advice is None) is serves_one


@pytest.mark.parametrize(("batch_ms", "limit"), [(1, 4), (HEADROOM * FRAME_MS - 1, 4), (70, 1), (200, 1)])
async def test_the_limit_is_measured_at_the_start(autojump_clock, nursery, batch_ms, limit):
    """On stages that take `batch_ms` for a batch of any width; at least one session is admitted."""
    runner = functools.partial(slow_inline, batch_s=batch_ms / 1000)
    with capture_logs() as logs:
        engine = await serving(make_engine(admit="auto", runner=runner), nursery)
    assert engine.admission.statistics().limit == limit
    assert engine.capacity is not None
    assert engine.capacity.serves_one is (batch_ms < FRAME_MS)
    assert [e["event"] for e in logs if e["event"] == "capacity_measured"]
    assert bool([e for e in logs if e["event"] == "too_slow"]) is not engine.capacity.serves_one


async def test_a_number_set_by_hand_is_not_measured(autojump_clock, nursery):
    """Nor corrected; it is at most the lanes."""
    for admit, limit in ((2, 2), (100, 4)):
        runner = functools.partial(slow_inline, batch_s=1)
        engine = await serving(make_engine(admit=admit, runner=runner), nursery)
        assert engine.admission.statistics().limit == limit


async def test_measuring_leaves_no_trace(autojump_clock, nursery):
    """A session's first frames are answered as by stages that nothing ran on before."""
    engine = await serving(make_engine(admit="auto"), nursery)
    client, frames = Client(), speech(3, 10)
    nursery.start_soon(serve_client, engine, client)
    nursery.start_soon(client.listen)
    await client.send(outgoing.metadata(Configure(seed=4)))
    await client.ready()
    await client.stream(frames)
    await client.until(lambda self: len(self.audio) == 10 - DELAY)
    assert all(map(np.array_equal, client.frames, expected(frames, 4)))


async def test_a_session_that_is_put_back_continues_with_its_memory(autojump_clock, nursery):
    """What it sends meanwhile has no effect: the answers are those to all its other frames."""
    engine = await serving(make_engine(), nursery)
    clients = [Client(), Client()]
    before, meanwhile, after = speech(1, 8), speech(2, 6), speech(3, 8)
    for client in clients:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        await client.stream(before)
    old, new = clients
    engine.admission.set_limit(1)
    await new.stream(meanwhile)
    await old.stream(meanwhile)
    assert admitted(new) == ["Ready", "Queued"]
    assert len(new.audio) == len(before) - DELAY
    engine.admission.set_limit(2)
    await trio.testing.wait_all_tasks_blocked()
    assert admitted(new) == ["Ready", "Queued", "Ready"]
    for client in clients:
        await client.stream(after)
    await new.until(lambda self: len(self.audio) == len(before) + len(after) - DELAY)
    assert all(map(np.array_equal, new.frames, expected([*before, *after], 0)))
    assert all(map(np.array_equal, old.frames, expected([*before, *meanwhile, *after], 0)))
    assert engine.statistics().counters.frames_put_back == len(meanwhile)
    dropped = [m for m in new.metadata if isinstance(m, Dropped)]
    assert sum(notice.count for notice in dropped if notice.what == "audio") == len(meanwhile)
    assert engine.statistics().counters.frames_dropped == 0
    assert engine.statistics().counters.underruns == 0


async def test_a_session_that_waits_long_is_neither_idle_nor_silent(autojump_clock, nursery):
    """However long it is put back, with or without audio from its client."""
    engine = await serving(make_engine(idle_s=5), nursery)
    clients = [Client(), Client()]
    for client in clients:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
    engine.admission.set_limit(1)
    await clients[0].stream(speech(1, 200))
    assert not clients[1].over
    engine.admission.set_limit(2)
    await clients[1].stream(speech(2, 4))
    await clients[1].until(lambda self: len(self.audio) == 4 - DELAY)


async def test_leaving_while_put_back_frees_the_lane(autojump_clock, nursery):
    """By `bye`, with everything that was answered."""
    engine = await serving(make_engine(lanes=2), nursery)
    clients = [Client(), Client()]
    for client in clients:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
    engine.admission.set_limit(1)
    await trio.testing.wait_all_tasks_blocked()
    await clients[1].bye()
    await trio.testing.wait_all_tasks_blocked()
    assert engine.admission.statistics().lanes_open == 1


async def test_sessions_are_put_back_while_answers_are_late_and_run_again_after(autojump_clock, nursery):
    """Four sessions on stages that suddenly take too long even for one, and then recover.

    As long as one alone is late, the server says so.
    """
    runners: list[Inline] = []
    engine = await serving(make_engine(admit="auto", runner=kept_in(runners, batch_s=0.002)), nursery)
    assert engine.admission.statistics().limit == 4
    clients = [Client() for _ in range(4)]
    for client in clients:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        nursery.start_soon(client.stream, speech(1, 1000))
    await trio.sleep(2)
    assert engine.admission.statistics().running == 4
    for each in runners:
        each.batch_s = 0.15  # not even one is in time
    with capture_logs() as logs:
        await trio.sleep(20)
    assert engine.admission.statistics().running == 1
    assert admitted(clients[3])[-1] == "Queued"
    assert admitted(clients[0]) == ["Ready"]
    assert engine.capacity is not None
    assert engine.capacity.advice == BUSY_ADVICE
    assert [e["problem"] for e in logs if e["event"] == "too_slow"] == [BUSY_ADVICE]
    for each in runners:
        each.batch_s = 0.002
    await trio.sleep(30)
    assert engine.capacity.advice is None
    assert engine.admission.statistics().running == 4
    assert admitted(clients[3])[-1] == "Ready"


async def test_a_machine_that_was_busy_when_it_was_measured_is_not_called_too_slow_once_it_is_in_time(
    autojump_clock, nursery
):
    """The advice ends with a conversation that is in time, and stays away after it."""
    runners: list[Inline] = []
    engine = await serving(make_engine(admit="auto", runner=kept_in(runners, batch_s=0.15)), nursery)
    assert engine.capacity is not None
    assert "80 ms of audio take" in (engine.capacity.advice or "")
    for each in runners:
        each.batch_s = 0.002
    client = Client()
    nursery.start_soon(serve_client, engine, client)
    nursery.start_soon(client.listen)
    await client.ready()
    nursery.start_soon(client.stream, speech(1, 200))
    await trio.sleep(8)
    assert engine.capacity.advice is None
    await trio.sleep(120)
    assert engine.capacity.advice is None


def kept_in(runners: list[Inline], *, batch_s: float):
    """Runners whose batches take so long, until the test that keeps them says otherwise."""

    @contextmanager
    def runner(name: str):
        with slow_inline(name, batch_s=batch_s) as inline:
            runners.append(inline)
            yield inline

    return runner


def test_observations_are_shorter_than_what_they_decide():
    """Several of them before anything is put back."""
    assert OBSERVE_EVERY_S <= 0.5


def test_the_absence_of_the_process_is_not_held_against_the_machine():
    """What is late because the process was suspended puts nobody back."""
    process, observed = FrozenProcess(), []

    class Limit:
        limit = 4
        is_late_alone = False

        def is_on_time(self, now_s):
            return False

        def observe(self, seen, now_s):
            observed.append(now_s)
            return 4

    async def main():
        admission = SimpleNamespace(statistics=lambda: SimpleNamespace(running=1, queued=0))
        dispatcher = SimpleNamespace(punctuality=Punctuality)
        control = CapacityControl(
            admission, dispatcher, lambda: [0.0], Limit(), threads=1, on_late_alone=observed.append
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.run)
            for seconds in (1, 1):
                await trio.testing.wait_all_tasks_blocked()
                process.trio.jump(seconds)
            await trio.testing.wait_all_tasks_blocked()
            before = len(observed)
            process.suspend(12)
            await trio.testing.wait_all_tasks_blocked()
            process.trio.jump(SETTLING_S - 0.1)
            await trio.testing.wait_all_tasks_blocked()
            assert len(observed) == before == 2
            process.trio.jump(1)
            await trio.testing.wait_all_tasks_blocked()
            assert len(observed) == 3
            nursery.cancel_scope.cancel()

    process.run(main)


async def test_a_client_that_sends_too_much_has_nobody_put_back(autojump_clock, nursery):
    """What it loses of its own audio, because there is no room, says nothing about the models."""
    runner = functools.partial(slow_inline, batch_s=0.01)
    engine = await serving(make_engine(admit="auto", runner=runner), nursery)
    flooding, *others = [Client(MemoryTransport(buffer=10_000)) for _ in range(3)]
    for client in (flooding, *others):
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
    burst = outgoing.audio(payload_of(np.concatenate([speech(1, 8)])), 0.0)
    for client in others:
        nursery.start_soon(client.stream, speech(2, 100))
    for _ in range(100):
        await flooding.send(burst, burst, burst)
        await trio.sleep(FRAME_S)
    assert engine.statistics().counters.frames_dropped > 1000
    assert engine.admission.statistics().put_back_total == 0
    assert [admitted(client) for client in others] == [["Ready"], ["Ready"]]
