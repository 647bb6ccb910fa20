"""Whatever raises, is cancelled, returns or hangs: it ends in bounded time, and no lane leaks.

A failure of one connection ends that connection; a failure of the engine ends the process with an error.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.actors.fakes import (
    LOADERS,
    Client,
    MemoryTransport,
    SumDecoder,
    SumEncoder,
    SumStepper,
    expected,
    make_engine,
    serve_client,
    slow_inline,
    speech,
    talk,
)
from support.hub_rig import HANG_S, REPO, file, proxy_of, read, read_found, running, until
from support.local_hub import serve

from actors.connection import Connection
from actors.engine import Engine, Loaders
from actors.hub_proxy.disk_store import DiskStore
from actors.hub_proxy.download import CHUNK_BYTES, TruncatedError
from actors.runtime.pinned_thread import PinnedThread, Runner
from actors.runtime.thread_pool import ThreadPool
from actors.sessions.transport import TransportClosedError
from pipeline.audio.framing import payload_of
from pipeline.errors import (
    BrokenInvariantError,
    HubFileError,
    SessionRefusedError,
    StateLostError,
    ThreadStalledError,
    WeightsError,
)
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.metadata import Bye, Ready

CALLS = ("encode", "step", "decode")


def loaders_with(call: str, behaviour) -> Loaders:
    """Stages of sums, one of whose calls does something else."""
    stages = []
    for stage, name in ((SumEncoder, "encode"), (SumStepper, "step"), (SumDecoder, "decode")):
        methods = {name: lambda *_: behaviour()} if name == call else {}
        stages.append(type(stage.__name__, (stage,), methods))
    return Loaders(*stages)


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


async def run_to_its_end(engine: Engine, client: Client) -> list[BaseException]:
    """Serve one client that sends audio without end; return what `run` raised, once both have ended."""
    failures: list[BaseException] = []

    async def serve() -> None:
        try:
            await engine.run()
        except BaseExceptionGroup as error:
            failures.extend(leaves(error))

    async def chat() -> None:
        await engine.ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_client, engine, client)
            nursery.start_soon(client.listen)
            await client.ready()
            try:
                while True:
                    await client.stream(speech(1, 1), every_s=0.01)
            except trio.BrokenResourceError:
                pass  # the server closed

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(chat)
    return failures


def is_over(engine: Engine, client: Client) -> bool:
    with pytest.raises(SessionRefusedError):
        engine.admission.request()
    return (
        client.transport.close_reason is CloseReason.INTERNAL_ERROR and engine.health()["lanes"]["open"] == 0
    )


@pytest.mark.parametrize("call", CALLS)
async def test_a_stage_that_lost_its_state_ends_the_engine(autojump_clock, call):
    """The cause is raised; every session is closed with an internal error; no lane is held."""

    def diverge():
        raise StateLostError("diverged")

    engine, client = make_engine(loaders=loaders_with(call, diverge)), Client()
    with trio.fail_after(30):
        (failure,) = await run_to_its_end(engine, client)
    assert isinstance(failure, StateLostError)
    assert is_over(engine, client)
    assert client.errors == ["internal_error"]
    assert not engine.stalled


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("waits", [False, True])
async def test_a_batch_that_fails_ends_only_its_own_lanes(autojump_clock, nursery, call, waits):
    """The client gets an error, the log one event, the lane is free and reset; a neighbour gets every frame.
    Also if the session was waiting for another connection at that moment."""
    poisoned: set[int] = set()

    def poison(stage, name):
        whole = getattr(stage, name)

        def run(self, lanes, rows):
            if poisoned & set(lanes):
                raise ArithmeticError("diverged")
            return whole(self, lanes, rows)

        return type(stage.__name__, (stage,), {name: run} if name == call else {})

    loaders = Loaders(poison(SumEncoder, "encode"), poison(SumStepper, "step"), poison(SumDecoder, "decode"))
    engine = make_engine(loaders=loaders, lanes=2, limits={"resume_grace_ms": 10_000 if waits else 0})
    await nursery.start(engine.run)
    await engine.ready.wait()
    doomed = Client(MemoryTransport(buffer=1000))
    frames = speech(2, 20)
    with capture_logs() as logs:
        async with trio.open_nursery() as inner:
            inner.start_soon(serve_client, engine, doomed)
            inner.start_soon(doomed.listen)
            await doomed.ready()

            async def fall() -> None:
                await trio.sleep(0.5)
                poisoned.add(0)
                await doomed.send(*(outgoing.audio(payload_of(f), 1.0) for f in frames[:4]))
                if waits:
                    doomed.transport.vanish()

            inner.start_soon(fall)
            neighbour = await talk(engine, frames, seed=2)
    assert all(map(np.array_equal, neighbour.frames, expected(frames, 2)))
    assert len(neighbour.frames) == 18
    assert [e["lanes"] for e in logs if e["event"] == "batch_failed"] == [[0]]
    if not waits:
        assert doomed.transport.close_reason is CloseReason.INTERNAL_ERROR
        assert doomed.errors == ["internal_error"]
    assert engine.health()["lanes"]["open"] == engine.health()["waiting"] == 0
    poisoned.clear()
    again = await talk(engine, frames, seed=2)
    assert all(map(np.array_equal, again.frames, expected(frames, 2)))


@contextlib.contextmanager
def pool_of(threads: int) -> Iterator[Callable[[str], contextlib.AbstractContextManager[Runner]]]:
    """What makes the stages' runners: with three threads each stage keeps its own."""
    pool = ThreadPool([PinnedThread(f"models {n}") for n in range(threads)])
    with pool.running():
        yield pool.runner


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("call", CALLS)
async def test_a_stage_that_hangs_ends_the_engine(call, threads):
    """On its real thread, which never returns: the stall is reported, everything else ends.
    Also if the other stages share that thread, and wait for it in vain."""
    gate = threading.Event()
    with pool_of(threads) as runner:
        engine = make_engine(loaders=loaders_with(call, gate.wait), runner=runner, stall_s=0.05)
        client = Client()
        try:
            with trio.fail_after(120):
                failures = await run_to_its_end(engine, client)
        finally:
            gate.set()
    assert {type(failure) for failure in failures} == {ThreadStalledError}
    assert is_over(engine, client)
    assert engine.stalled
    assert client.errors == ["internal_error"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", CALLS)
async def test_a_stage_that_fails_returns_its_shared_thread(call, threads):
    """The lane it failed on is closed and free, and the next session gets every frame."""
    fails = True

    def poison(stage, name):
        def run(self, lanes, rows):
            if fails:
                raise ArithmeticError("diverged")
            return getattr(super(type(self), self), name)(lanes, rows)

        return type(stage.__name__, (stage,), {name: run} if name == call else {})

    loaders = Loaders(poison(SumEncoder, "encode"), poison(SumStepper, "step"), poison(SumDecoder, "decode"))
    frames = speech(2, 8)
    with pool_of(threads) as runner, trio.fail_after(120):
        engine = make_engine(loaders=loaders, lanes=1, runner=runner)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await engine.ready.wait()
            for _ in range(2):
                client = Client()
                nursery.start_soon(serve_client, engine, client)
                nursery.start_soon(client.listen)
                await client.ready()
                await client.send(outgoing.audio(payload_of(np.concatenate(frames)), 1.0))
                if fails:
                    await client.until(lambda c: c.over)
                    assert client.errors == ["internal_error"]
                    while engine.health()["lanes"]["open"]:  # its closing is on its way through the threads
                        await trio.lowlevel.checkpoint()
                    fails = False
            await client.until(lambda c: len(c.audio) == len(expected(frames, 0)))
            await client.bye()
            await engine.drain()
    assert all(map(np.array_equal, client.frames, expected(frames, 0)))
    assert engine.health()["lanes"]["open"] == 0


async def fails() -> bytes:
    raise RuntimeError("a bug of ours")


async def returns() -> None:
    await trio.lowlevel.checkpoint()


def sabotaged(run: Callable[..., Awaitable[object]], fault: Callable[[], Awaitable[object]], after_s: float):
    """The actor itself until it alone is cancelled; then `fault` in its place."""

    async def sabotage(*args: object) -> None:
        with trio.move_on_after(after_s):
            await run(*args)
        await fault()

    return sabotage


ENGINE_ACTORS = ["encoder", "stepper", "decoder", "dispatcher", "health", "registry", "recorder"]


@pytest.mark.parametrize(("fault", "problem"), [(fails, "failed: a bug of ours"), (returns, "ended while")])
@pytest.mark.parametrize("actor", ENGINE_ACTORS)
async def test_an_actor_that_raises_or_ends_ends_the_engine(autojump_clock, tmp_path, actor, fault, problem):
    """An actor that ends by itself, cancelled alone or not, is a broken invariant: every session, with a
    connection or waiting for one, is over, and its lane free."""
    engine = make_engine(replay={"folder": str(tmp_path)}, limits={"resume_grace_ms": 60_000})
    part = getattr(engine, f"_{actor}")
    part.run = sabotaged(part.run, fault, 2.0)
    talking, lost = Client(), Client()

    async def lose() -> None:
        await engine.ready.wait()
        with engine.admit() as reservation:
            await engine.serve(lost.transport, reservation)

    async def fall() -> None:
        await lost.ready()
        lost.transport.vanish()
        await trio.sleep(0.5)
        assert engine.health()["waiting"] == 1

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for task in (lose, lost.listen, fall):
                nursery.start_soon(task)
            (failure,) = await run_to_its_end(engine, talking)
    assert isinstance(failure, BrokenInvariantError)
    assert str(failure).startswith(f"the {actor} {problem}")
    assert is_over(engine, talking)
    assert talking.errors == ["internal_error"]
    assert engine.health()["waiting"] == 0
    assert sum(engine.health()["endings"].values()) == 2


@pytest.mark.parametrize("actor", ["_encoder", "_stepper", "_decoder", "_dispatcher"])
async def test_an_actor_whose_input_ends_ends_the_engine(autojump_clock, nursery, actor):
    """If its channel is closed while the engine is running."""
    engine, client = make_engine(), Client()

    async def end_its_input() -> None:
        await trio.sleep(1)
        part = getattr(engine, actor)
        (part._channel if actor == "_dispatcher" else part._inputs).close()

    nursery.start_soon(end_its_input)
    with trio.fail_after(30):
        (failure,) = await run_to_its_end(engine, client)
    assert isinstance(failure, BrokenInvariantError)
    assert str(failure) == f"the {actor.removeprefix('_')} ended while the engine was running"
    assert is_over(engine, client)


@pytest.mark.parametrize("actor", ["health", "registry", "recorder"])
async def test_an_actor_that_hangs_beside_the_models_holds_up_no_session(autojump_clock, tmp_path, actor):
    """A session gets every frame, a lost connection frees its lane, and a drain ends the engine.
    (The model actors hang on their threads, and the dispatcher waits only for them: see above.)"""
    engine = make_engine(replay={"folder": str(tmp_path)}, limits={"resume_grace_ms": 5000}, drain_s=3)
    part = getattr(engine, f"_{actor}")
    part.run = sabotaged(part.run, trio.sleep_forever, 0.2)
    lost, frames = Client(), speech(2, 10)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await engine.ready.wait()
            nursery.start_soon(serve_client, engine, lost)
            nursery.start_soon(lost.listen)
            await lost.ready()
            talking = await talk(engine, frames, seed=2)
            lost.transport.vanish()
            await trio.sleep(6)
            assert engine.health()["lanes"]["open"] == engine.health()["waiting"] == 0
            began_s = trio.current_time()
            await engine.drain()
        assert trio.current_time() - began_s <= 3
    assert all(map(np.array_equal, talking.frames, expected(frames, 2)))
    assert len(talking.frames) == len(expected(frames, 2))


async def test_a_cancelled_engine_ends_its_sessions(autojump_clock):
    """Cancellation goes through at once, and every client is closed."""
    engine, client = make_engine(), Client()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def serve() -> None:
            with scope:
                await engine.run()

        nursery.start_soon(serve)
        await engine.ready.wait()
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        with trio.fail_after(1):
            scope.cancel()
            await client.until(lambda c: c.over or c.transport.close_reason is not None)
    assert is_over(engine, client)


@pytest.mark.parametrize("threads", [1, 2, 3])
async def test_an_engine_cancelled_while_it_loads_does_not_wait(threads):
    """A load cannot be interrupted; it is abandoned, also by actors that wait for its thread."""
    gate = threading.Event()

    def load() -> SumEncoder:
        gate.wait()
        return SumEncoder()

    loaders = Loaders(load, SumStepper, SumDecoder)
    with pool_of(threads) as runner:
        engine = make_engine(loaders=loaders, runner=runner)
        try:
            with trio.fail_after(120):
                async with trio.open_nursery() as nursery:
                    await nursery.start(engine.run)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
        finally:
            gate.set()
    assert not engine.ready.is_set()


async def test_a_checkpoint_that_cannot_be_loaded_keeps_its_error(autojump_clock):
    """What the loader raises is raised by `run` unchanged, for its exit code."""

    def load() -> SumStepper:
        raise WeightsError("model.safetensors", "truncated")

    engine = make_engine(loaders=Loaders(LOADERS.encoder, load, LOADERS.decoder))
    with pytest.raises(ExceptionGroup) as caught:
        await engine.run()
    assert [type(error) for error in leaves(caught.value)] == [WeightsError]


class Faulty(MemoryTransport):
    """A transport one of whose halves does something else from its `after`-th call on."""

    receive_fault = send_fault = None
    after = 3

    async def receive(self) -> bytes | str:
        self.after -= 1
        if self.receive_fault and self.after < 0:
            return await self.receive_fault()
        return await super().receive()

    async def send(self, message: bytes | str) -> None:
        self.after -= 1
        if self.send_fault and self.after < 0:
            await self.send_fault()
        await super().send(message)


async def is_gone() -> bytes:
    raise TransportClosedError


@pytest.mark.parametrize("half", ["receive", "send"])
@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        (fails, (CloseReason.INTERNAL_ERROR, "crashed")),
        (is_gone, (CloseReason.GOING_AWAY, "peer_closed")),
        (trio.sleep_forever, (CloseReason.TRY_AGAIN_LATER, "silent")),
    ],
)
async def test_a_connection_that_fails_affects_no_other(autojump_clock, nursery, half, fault, ending):
    """Ingress or egress raises, loses its peer, or hangs: that connection ends, its lane is free again,
    and a neighbour gets every frame."""
    close_reason, reason = ending
    engine = make_engine(lanes=2, queue=0)
    await nursery.start(engine.run)
    await engine.ready.wait()
    transport = Faulty(buffer=1000)
    client = Client(transport)
    frames = speech(2, 50)

    async def go_silent() -> None:
        await client.ready()
        setattr(transport, f"{half}_fault", fault)
        if fault is not trio.sleep_forever:
            await client.send(outgoing.heartbeat())

    with capture_logs() as logs, trio.fail_after(60):
        async with trio.open_nursery() as inner:
            inner.start_soon(serve_client, engine, client)
            inner.start_soon(client.listen)
            inner.start_soon(go_silent)
            neighbour = await talk(engine, frames, seed=2)
    assert len(neighbour.frames) == len(expected(frames, 2))
    assert transport.close_reason is close_reason
    assert reason in {entry.get("reason") for entry in logs}
    assert [e["event"] for e in logs if e["log_level"] == "error"] == (
        ["session_crashed", "session"] if reason == "crashed" else []
    )
    await trio.sleep(0.1)
    assert engine.health()["lanes"]["open"] == 0


@pytest.mark.parametrize("fault", list(itertools.product([fails, returns, trio.sleep_forever], [0.0, 0.5])))
@pytest.mark.parametrize("task", ["read", "write", "keep_alive", "admit", "finish_session", "end_when_idle"])
async def test_a_connection_whose_task_fails_affects_no_other(
    autojump_clock, nursery, monkeypatch, task, fault
):
    """Each task raises, hangs, or returns, at once or when it is cancelled: the connection ends when its
    client has gone, at the latest after the heartbeat timeout; its lane is free, a neighbour unaffected."""
    engine = make_engine(lanes=2, queue=0, heartbeat={"every_s": 5, "timeout_s": 15})
    await nursery.start(engine.run)
    await engine.ready.wait()
    client = Client(MemoryTransport(buffer=1000))
    whole = getattr(Connection, f"_{task}")

    async def sabotage(self: Connection) -> None:
        await (sabotaged(whole, *fault) if self._transport is client.transport else whole)(self)

    sabotage.__name__ = f"_{task}"
    monkeypatch.setattr(Connection, f"_{task}", sabotage)
    frames = speech(2, 12)

    async def speak_and_vanish() -> None:
        with trio.move_on_after(1):  # without its admission it is never ready
            await client.until(lambda c: c.over or any(isinstance(m, Ready) for m in c.metadata))
            with contextlib.suppress(trio.BrokenResourceError):
                await client.stream([] if client.over else frames)
        client.transport.vanish()

    with trio.fail_after(60):
        async with trio.open_nursery() as inner:
            inner.start_soon(serve_client, engine, client)
            inner.start_soon(client.listen)
            inner.start_soon(speak_and_vanish)
            neighbour = await talk(engine, frames, seed=2)
            await trio.sleep(15 + 2)
            assert engine.health()["clients"] == 0
    assert engine.health()["lanes"]["open"] == 0
    assert all(map(np.array_equal, neighbour.frames, expected(frames, 2)))
    assert len(neighbour.frames) == len(expected(frames, 2))
    if fails in fault:
        assert client.transport.close_reason is CloseReason.INTERNAL_ERROR
        assert engine.health()["endings"] == {"crashed": 1, "bye": 1}


class FragileStore(DiskStore):
    """Raises an unexpected error while `fragile`."""

    fragile = True

    def find(self, name):
        if self.fragile:
            raise LookupError(name)
        return super().find(name)


@pytest.fixture
def hub():
    with serve() as hub:
        hub.add(REPO, {"config.json": b"{}", "model.onnx": bytes(3 * CHUNK_BYTES)})
        yield hub


async def test_a_bug_in_the_proxy_affects_one_file(hub, tmp_path):
    """Its request is refused; a download under way continues, and the next request is served."""
    store = FragileStore(tmp_path)
    hub.held["model.onnx"] = threading.Event()  # the download is under way until this is set
    async with running(hub, tmp_path) as proxy:
        proxy._cache._store = store
        store.fragile = False
        found = await proxy.resolve(file("model.onnx"))
        store.fragile = True
        with pytest.raises(HubFileError) as caught:
            await proxy.resolve(file("config.json"))
        assert caught.value.code == "hub_error"
        store.fragile = False
        hub.held["model.onnx"].set()
        assert await read_found(proxy, found) == bytes(3 * CHUNK_BYTES)
        assert await read(proxy, file("config.json")) == b"{}"
    assert proxy.statistics().fetching == proxy.statistics().active_readers == 0


@pytest.mark.parametrize("way", ["cancelled", "drained"])
async def test_a_proxy_that_ends_ends_every_request(hub, tmp_path, way):
    """Whether it is reading, waiting for the hub or waiting for a slot; no file stays open."""
    hub.held["model.onnx"] = threading.Event()  # in the middle of it the hub hangs
    hub.silent["config.json"] = threading.Event()  # the hub never answers this one
    ends: list[str] = []

    async def want(path: str) -> None:
        try:
            await read(proxy, file(path))
        except HubFileError as refusal:
            ends.append(refusal.code)
        except TruncatedError:
            ends.append("cut")

    proxy, scope = proxy_of(hub, tmp_path, fetches=2, drain_s=0.05), trio.CancelScope()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await proxy.run(task_status=task_status)

    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as wanting:
            await wanting.start(run)
            for path in ("model.onnx", "config.json"):
                wanting.start_soon(want, path)
            await until(lambda: proxy.statistics().active_readers and proxy.statistics().fetching == 2)
            wanting.start_soon(want, "other.json")
            await until(lambda: proxy.statistics().queued)
            if way == "cancelled":
                scope.cancel()
            else:
                await proxy.drain()
    assert sorted(ends) == ["cut", "draining", "draining"]
    now = proxy.statistics()
    assert (now.fetching, now.queued, now.active_readers) == (0, 0, 0)


@pytest.mark.parametrize("moment", ["at_once", "queued", "ready", "mid_frame", "after_bye"])
@pytest.mark.parametrize("way", ["cancelled", "vanished"])
async def test_no_lane_leaks_whenever_a_session_ends(autojump_clock, nursery, moment, way):
    """Cancelled, or its peer gone, at once, in the queue, ready, with a frame in the model, or while it
    closes: a moment later both lanes are free, and the next sessions are served as if new."""
    runner = functools.partial(slow_inline, batch_s=0.02)
    engine = make_engine(lanes=1, queue=1, runner=runner)
    await nursery.start(engine.run)
    await engine.ready.wait()
    scope = trio.CancelScope()
    holder, client = Client(), Client()

    async def doomed() -> None:
        with scope:
            await serve_client(engine, client)

    async with trio.open_nursery() as inner:
        if moment == "queued":
            inner.start_soon(serve_client, engine, holder)
            inner.start_soon(holder.listen)
            await holder.ready()
        inner.start_soon(doomed)
        inner.start_soon(client.listen)
        if moment != "at_once":
            await trio.testing.wait_all_tasks_blocked()
        if moment in ("mid_frame", "after_bye"):
            await client.ready()
            await client.send(outgoing.audio(payload_of(speech(1, 1)[0]), 0.0))
            await trio.sleep(0.03)  # the encoder is done, the stepper is not
        if moment == "after_bye":
            await client.send(outgoing.metadata(Bye()))
            await trio.sleep(0.001)
        if way == "cancelled":
            scope.cancel()
        else:
            client.transport.vanish()
        if moment == "queued":
            await trio.testing.wait_all_tasks_blocked()
            await holder.bye()
    await trio.sleep(1)
    assert engine.health()["lanes"].items() >= {"max": 1, "open": 0, "queued": 0}.items()
    frames = speech(9, 6)
    again = await talk(engine, frames, seed=9)
    assert len(again.frames) == len(expected(frames, 9))


class Lingering(MemoryTransport):
    """A transport whose close never returns."""

    async def close(self, close_reason: CloseReason) -> None:
        self.close_reason = close_reason
        await trio.sleep_forever()


async def test_a_lane_does_not_wait_for_a_close(autojump_clock, nursery):
    """However long the close takes, the lane is free at once; and it takes no longer than one write."""
    engine = make_engine(lanes=1, limits={"send_timeout_s": 2})
    await nursery.start(engine.run)
    await engine.ready.wait()
    client = Client(Lingering())
    with trio.fail_after(60):
        async with trio.open_nursery() as inner:
            inner.start_soon(serve_client, engine, client)
            await trio.testing.wait_all_tasks_blocked()
            client.transport.vanish()
            began_s = trio.current_time()
            await trio.sleep(0.1)
            assert engine.health()["lanes"]["open"] == 0
            assert engine.health()["clients"] == 1
    assert trio.current_time() - began_s == pytest.approx(2, abs=0.1)


async def test_a_silent_peer_is_closed_and_an_idle_one_is_not(autojump_clock, nursery):
    """Nothing at all for the timeout ends the session; answering heartbeats is enough to stay."""
    engine = make_engine(heartbeat={"every_s": 5, "timeout_s": 15})
    await nursery.start(engine.run)
    await engine.ready.wait()
    quiet, silent = Client(), Client(MemoryTransport(buffer=1000))
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, quiet)
        inner.start_soon(quiet.listen)
        began_s = trio.current_time()
        with trio.fail_after(60):
            await serve_client(engine, silent)
        assert trio.current_time() - began_s == pytest.approx(15, abs=0.01)
        assert silent.transport.close_reason is CloseReason.TRY_AGAIN_LATER
        await trio.sleep(60)
        assert not quiet.over
        await quiet.bye()
    assert engine.health()["endings"] == {"silent": 1, "bye": 1}


async def test_a_session_without_audio_loses_its_lane(autojump_clock, nursery):
    """After `idle_s`, with the reason; a client in the queue is not idle, and gets the lane."""
    engine = make_engine(lanes=1, queue=1, idle_s=60)
    await nursery.start(engine.run)
    await engine.ready.wait()
    idle, waiting = Client(), Client()
    async with trio.open_nursery() as inner:
        for client in (idle, waiting):
            inner.start_soon(serve_client, engine, client)
            inner.start_soon(client.listen)
            await trio.testing.wait_all_tasks_blocked()
        began_s = trio.current_time()
        await idle.stream(speech(1, 50), every_s=1)
        await idle.until(lambda c: c.over)
        assert trio.current_time() - began_s == pytest.approx(49 + 60, abs=0.1)
        assert (idle.errors, idle.transport.close_reason) == (["idle"], CloseReason.NORMAL)
        await waiting.ready()
        await trio.sleep(50)
        await waiting.bye()
    assert engine.health()["endings"] == {"idle": 1, "bye": 1}
