"""One client cannot take the others' time: a budget of events and processor time, in fair turns."""

import json
import time
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import pairwise

import pytest
import structlog
import trio
import trio.testing
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import (
    closing_code,
    connect,
    fetch,
    frame,
    raw_websocket,
    read_frames,
    read_refused,
    read_to_end,
)
from trio_websocket import ConnectionClosed

from actors.runtime import awake_clock
from actors.runtime.awake_clock import AwakeClock
from pipeline.config import Limits, Server, Settings
from pipeline.protocol import outgoing
from web.server import work_budget
from web.server.work_budget import (
    BURST_S,
    PATIENCE_S,
    TURN_EVENTS,
    Allowance,
    ConnectionWork,
    Reports,
    WorkBudget,
    WorkBudgets,
)

EMPTY = {
    "empty pongs": frame(10, b""),
    "pings": frame(9, b"x"),
    "empty continuations": frame(0, b"", final=False),
}
# Only events are limited, so that nothing but their count can end a flood.
LIMITED = Settings(
    server=Server(port=0),
    limits=Limits(
        send_timeout_s=0.3,
        max_lag_ms=60_000,
        events_per_second=50,
        processor_share=1e6,
        requests_processor_share=1e6,
        address_processor_share=1e6,
    ),
    drain_s=1.0,
)


async def test_an_allowance_is_refilled_with_time(autojump_clock):
    """What is overdrawn has to be waited for; what is not used is kept for `BURST_S` and no longer."""
    allowance = Allowance(10)
    await trio.sleep(100)
    allowance.spend(10 * BURST_S)
    assert allowance.wait_s() == 0
    allowance.spend(5)
    assert allowance.wait_s() == pytest.approx(0.5)
    await trio.sleep(0.5)
    assert allowance.wait_s() == pytest.approx(0, abs=1e-9)


async def test_turns_are_taken_in_order(autojump_clock):
    """Whoever waits longest for a shared budget is next, however much another one asks for."""
    budget = WorkBudget(events_per_s=1e9, processor_share=0.5)
    budget.add_processor_s(5)
    order, names = [], "abcdef"

    async def take(name):
        for _ in range(4):
            await budget.take_turn()
            order.append(name)
            budget.add_processor_s(0.1)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(take, name)
            await trio.testing.wait_all_tasks_blocked()
    assert "".join(order) == 4 * names


async def test_a_client_that_pauses_is_only_slowed(autojump_clock):
    """However much it sends in total: it is closed only if it never lets the server catch up."""
    floods = []
    work = limited_work(floods)
    for _ in range(50):
        for _ in range(60):
            assert await work.after_event()
        work.caught_up()
    assert not floods


async def test_a_client_that_does_not_stop_is_reported(autojump_clock):
    """Over budget for `PATIENCE_S` without a pause, it is told apart from a burst."""
    floods = []
    work = limited_work(floods)
    began_s = trio.current_time()
    events = 0
    while await work.after_event():
        events += 1
        assert events < 10_000
    assert trio.current_time() - began_s == pytest.approx(PATIENCE_S)
    assert floods == [1]


async def test_work_on_a_thread_is_charged_like_that_of_a_task(autojump_clock):
    """To the connection and to its address: it is not read until that is made up for."""
    budgets = WorkBudgets(Limits(processor_share=0.5, address_processor_share=0.5))
    work = budgets.connection("a", Reports(list, print))
    work.upgrade()
    work.charge(0.5 * (BURST_S + 4))
    assert [budget.wait_s() for budget in work.budgets] == pytest.approx([4, 4])


async def test_all_connections_of_an_address_share_a_budget():
    """However many they are; those of another address, or behind a proxy, have no part in it."""
    budgets = WorkBudgets(Limits())
    first, second, other = (budgets.connection(address, Reports(list, print)) for address in "aab")
    proxied = budgets.connection(None, Reports(list, print))
    requesting = budgets.connection("a", Reports(list, print))
    for work in (first, second, other, proxied):
        work.upgrade()
    own, shared = first.budgets
    assert second.budgets[1] is requesting.budgets[1] is shared
    assert own not in second.budgets
    assert shared not in other.budgets
    assert len(proxied.budgets) == 1


async def test_an_address_that_is_far_over_budget_gets_no_new_connection():
    """It is closed at once and counted, before it costs a handshake or a parser."""
    limits = Limits(requests_processor_share=0.0001)
    async with small_server(Settings(server=Server(port=0), limits=limits, drain_s=1.0)) as served:
        while not served.limiter.rejected["work"]:
            with suppress(OSError):
                async with await connect(served) as stream:
                    await send_quietly(
                        stream, f"GET /health HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode()
                    )
        assert await read_refused(served) == b""


async def test_new_connections_of_an_address_begin_one_by_one():
    """However many there are: another address does not wait for them, and the loop's turns stay short."""
    budgets = WorkBudgets(Limits())
    works = [budgets.connection("a", Reports(list, print)) for _ in range(50)]
    works.append(budgets.connection("b", Reports(list, print)))
    begun, turns = [], []

    async def begin(number):
        await works[number].begin()
        begun.append(number)

    class Turns(trio.abc.Instrument):
        def before_io_wait(self, timeout):
            turns.append(len(begun))

    trio.lowlevel.add_instrument(counting := Turns())
    async with trio.open_nursery() as nursery:
        for number in range(len(works)):
            nursery.start_soon(begin, number)
    trio.lowlevel.remove_instrument(counting)
    at_once = [after - before for before, after in pairwise(turns)]
    assert max(at_once) <= 2  # one of either address
    assert begun.index(50) <= 2


async def test_beginning_costs_nothing_ahead():
    """Otherwise a client with a connection for each request would get half as many of them."""
    budgets = WorkBudgets(Limits())
    work = budgets.connection("a", Reports(list, print))
    before = work.budgets[0]._processor._level
    await work.begin()
    assert work.budgets[0]._processor._level >= before


async def test_whether_an_address_is_hopeless_is_known_without_a_connection():
    """An address that was never seen is not, and remembers nothing of the question."""
    budgets = WorkBudgets(Limits())
    assert not budgets.is_hopeless("a")
    assert not budgets._addresses
    budgets.connection("a", Reports(list, print)).budgets[0].add_processor_s(1e3)
    assert budgets.is_hopeless("a")
    assert not budgets.is_hopeless("b")


async def test_the_clients_of_a_proxy_are_told_apart():
    """By what the proxy writes into the headers of each request; where that is nothing, nobody shares."""
    budgets = WorkBudgets(Limits())
    by_name = partial(
        budgets.connection, None, Reports(list, print), lambda headers: dict(headers).get(b"by")
    )
    first, second, other, nobody = (by_name() for _ in range(4))
    for work, headers in ((first, {b"by": "a"}), (second, {b"by": "a"}), (other, {b"by": "b"}), (nobody, {})):
        work.begin_request(headers.items())
    assert first.budgets == second.budgets
    assert not set(first.budgets) & {*other.budgets, *nobody.budgets}
    second.begin_request([(b"by", "b")])  # another client's request on the same connection
    assert second.budgets == other.budgets
    first.upgrade()
    assert first.budgets[1] not in second.budgets


async def test_a_websocket_beside_a_flood_from_its_own_address_goes_on(autojump_clock):
    """Those that never stop are closed; one that is idle now and then gets its turns, and is not."""
    budgets = WorkBudgets(Limits())
    floods = []
    works = [budgets.connection("a", Reports(partial(floods.append, name), print)) for name in range(9)]

    async def flood(work):
        while await work.after_event():
            add_processor_s(work, 0.001)

    async def converse(work):
        for _ in range(200):
            await trio.sleep(0.08)
            assert await work.after_event()
            add_processor_s(work, 0.001)
            work.caught_up()

    async with trio.open_nursery() as nursery:
        for work in works:
            work.upgrade()
            nursery.start_soon(flood if work is not works[0] else converse, work)
    assert sorted(floods) == list(range(1, 9))


def test_the_absence_of_the_server_is_not_held_against_a_client():
    """A client whose turn comes late because the server was suspended is no flood."""
    now_s, clock, floods = [1000.0], trio.testing.MockClock(), []

    async def main():
        awake_clock.install(AwakeClock(lambda: now_s[0]))
        work = limited_work(floods)
        for _ in range(120):
            work.budgets[0].add_event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.after_event)
            await trio.testing.wait_all_tasks_blocked()
            now_s[0] += 12
            clock.jump(12)

    trio.run(main, clock=clock)
    assert not floods


async def test_every_few_events_others_have_their_turn():
    """There is a checkpoint between the events of one read, even within the budget."""
    work = limited_work([])
    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(TURN_EVENTS):
            await work.after_event()
    assert scope.cancelled_caught


async def test_the_work_of_all_tasks_of_a_connection_is_charged_to_it():
    """Also of those that its own tasks have started; other tasks cost it nothing."""
    budgets = WorkBudgets(Limits())
    context = copy_context()
    work = context.run(budgets.connection, None, Reports(list, print))

    async def spin():
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass

    async def start_another():
        async with trio.open_nursery() as inner:
            inner.start_soon(spin)

    with budgets.meter.running():
        await spin_in(spin, None)
        before_s = work.budgets[0]._processor._level
        await spin_in(start_another, context)
    assert before_s == pytest.approx(BURST_S * Limits().requests_processor_share)
    assert work.budgets[0]._processor._level < before_s - 0.04


@pytest.mark.parametrize("flood", EMPTY.values(), ids=EMPTY)
async def test_a_flood_of_legal_frames_is_closed(flood):
    """The client is read slowly, sent the error, closed with 1008 and counted."""
    async with small_server(LIMITED) as served, packet_client(served) as neighbour:
        await neighbour.exchange(speech(3))
        async with raw_websocket(served) as stream:
            if flood[0] == 0:
                await stream.send_all(frame(2, b"", final=False))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_quietly, stream, flood * 20_000)
                frames = await read_frames(stream)
                nursery.cancel_scope.cancel()
        assert closing_code(frames) == 1008
        assert any(b"too_many_frames" in payload for opcode, payload in frames if opcode == 2)
        health = (await fetch(served, "/health")).json
        assert health["endings"] == {"too_many_frames": 1}
        assert served.limiter.rejected["work"] == 1
        assert len(await neighbour.exchange(speech(3))) == 3


async def test_a_flood_of_packets_is_closed():
    """Whole packets count like frames: 1008, and the session is over."""
    async with small_server(LIMITED) as served, packet_client(served) as client:

        async def send():
            while True:
                await client.send(outgoing.heartbeat())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_closed, send)
            assert await client.close_code() == 1008
            nursery.cancel_scope.cancel()


async def test_a_burst_within_the_budget_is_no_flood():
    """Two seconds' worth of events at once, then a pause, over and over: the session goes on."""
    async with small_server(SETTINGS) as served, packet_client(served) as client:
        for _ in range(3):
            for _ in range(200):
                await client.send(outgoing.heartbeat())
            await client.exchange(speech(1))


async def test_requests_on_one_connection_have_turns_too():
    """Pipelined requests of an address over budget wait, and all are answered."""
    limits = Limits(requests_processor_share=0.01)
    async with small_server(Settings(server=Server(port=0), limits=limits, drain_s=1.0)) as served:
        request = f"GET /health/live HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode()
        last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        async with await connect(served) as stream:
            await stream.send_all(4 * request + last)
            assert (await read_to_end(stream)).count(b"HTTP/1.1 200") == 5


async def test_a_request_that_waits_too_long_is_refused(autojump_clock):
    """Where an address is hopelessly over budget, a request is refused and counted, not kept for ever."""
    floods = []
    work = limited_work(floods)
    work.budgets[0].add_processor_s(1e6)
    assert not await work.wait_for_request_turn()
    assert floods == [1]


async def test_a_client_whose_requests_wait_too_long_is_told(monkeypatch):
    """429 with the reason and when to try again, one line of the log, and the connection is closed."""
    monkeypatch.setattr(work_budget, "REQUEST_PATIENCE_S", 0.05)
    limits = Limits(requests_processor_share=0.01)
    async with small_server(Settings(server=Server(port=0), limits=limits, drain_s=1.0)) as served:
        request = f"GET /health/live HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode()
        with structlog.testing.capture_logs() as logs:
            async with await connect(served) as stream:
                await stream.send_all(40 * request)
                answer = await read_to_end(stream)
            head, _, body = answer.rpartition(b"\r\n\r\n")
            assert b"HTTP/1.1 429" in head
            assert b"retry-after: 5" in head
            assert json.loads(body)["error"]["code"] == "too_many_requests"
        assert {entry["event"] for entry in logs} == {"bad_input", "connection_rejected"}
        assert served.limiter.rejected == {"work": 1}


async def test_chunks_that_nobody_reads_end_quietly():
    """A body that is refused goes on arriving while the response is written: no traceback."""
    async with small_server() as served:
        head = f"POST /api/session HTTP/1.1\r\nHost: {served.host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        with structlog.testing.capture_logs() as logs:
            async with await connect(served) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(send_quietly, stream, head.encode() + 50_000 * b"1\r\na\r\n")
                await read_to_end(stream)
                nursery.cancel_scope.cancel()
        assert {entry["event"] for entry in logs} <= {"bad_input", "connection_rejected"}


async def test_frames_with_the_handshake_are_a_protocol_error():
    """A client must wait for the response to its handshake: 1002, one line, and its lane is free."""
    async with small_server() as served:
        with structlog.testing.capture_logs() as logs:
            async with await connect(served) as stream:
                handshake = (
                    f"GET /ws HTTP/1.1\r\nHost: {served.host}\r\n"
                    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                )
                await stream.send_all(handshake.encode() + frame(2, b"early"))
                answer = await read_to_end(stream)
        head, _, frames = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert frames[:4][2:] == (1002).to_bytes(2, "big")
        assert [entry["event"] for entry in logs if entry["event"] != "session"] == ["bad_input"]
        while served.engine.health()["lanes"]["open"]:
            await trio.lowlevel.checkpoint()
        assert served.engine.health()["endings"] == {"bad_frame": 1}


def limited_work(floods):
    budget = WorkBudget(events_per_s=50, processor_share=0.5)
    return ConnectionWork(budget, budget, (), Reports(lambda: floods.append(1), print))


def add_processor_s(work, processor_s):
    for budget in work.budgets:
        budget.add_processor_s(processor_s)


async def spin_in(call, context):
    """Run `call` as a task in a context."""
    done = trio.Event()

    async def run():
        await call()
        done.set()

    async with trio.open_nursery():
        trio.lowlevel.spawn_system_task(run, context=context)
        await done.wait()


async def send_quietly(stream, data):
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        await trio.lowlevel.checkpoint()


async def send_until_closed(send):
    try:
        await send()
    except ConnectionClosed:
        await trio.lowlevel.checkpoint()
