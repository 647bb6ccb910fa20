"""The whole engine with sessions: order, isolation, admission, overload.

What happens when a part fails is in `test_failures`.
"""

import contextlib
import functools
import math
import random

import numpy as np
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.actors.fakes import (
    CODEBOOKS,
    DELAY,
    LOADERS,
    Client,
    Loaders,
    MemoryTransport,
    SumDecoder,
    SumStepper,
    expected,
    make_engine,
    serve_client,
    slow_inline,
    speech,
    talk,
)

from actors.decoder import Decoder
from actors.engine import Engine
from actors.runtime.channel import Batch, Channel
from actors.runtime.pinned_thread import PinnedThread
from actors.runtime.tracing import Tracer
from actors.sessions.admission import Admission
from actors.sessions.counters import SessionCounters
from actors.sessions.dispatcher import Dispatcher
from actors.sessions.latency import Latencies
from actors.sessions.send_queue import SendQueue
from actors.sessions.session import Session
from pipeline.audio.framing import payload_of
from pipeline.audio.pacing import Playout
from pipeline.errors import SessionRefusedError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.events import AudioReceived, HeartbeatReceived, Ignored, TextReceived
from pipeline.protocol.metadata import (
    ClientStats,
    Configure,
    ConnectionEstablished,
    Draining,
    Dropped,
    ErrorNotice,
    Queued,
    Ready,
    Stats,
)
from pipeline.protocol.packets import Packet, PacketType, encode
from pipeline.values import AgentCodes, SamplingParams, UserFrame


@pytest.fixture
async def engine(nursery: trio.Nursery) -> Engine:
    return await serving(make_engine(), nursery)


async def serving(engine: Engine, nursery: trio.Nursery) -> Engine:
    await nursery.start(engine.run)
    await engine.ready.wait()
    return engine


def same(received: list[np.ndarray], due: list[np.ndarray]) -> bool:
    return len(received) == len(due) and all(map(np.array_equal, received, due))


def adds_up(engine: Engine) -> bool:
    metrics = engine.health()["metrics"]
    return all(q["sent"] == q["taken"] + q["leaked"] + q["depth"] for q in metrics["queues"].values())


async def test_a_session_gets_every_frame_once_and_in_order(autojump_clock, engine):
    """Frames out = frames in − the model's delay; each echoes the time of the frame that released it."""
    frames = speech(1, 12)
    client = await talk(engine, frames, seed=5)
    assert same(client.frames, expected(frames, 5))
    assert [a.timestamp_ms for a in client.audio] == [1000.5 + 80 * k for k in range(DELAY, 12)]
    assert client.finals == ["1 2 3 4", "5 6 7 8", "9 10 11 12"]
    assert client.transport.close_reason is CloseReason.NORMAL
    assert isinstance(client.metadata[0], ConnectionEstablished)
    assert client.metadata[0].model.model_delay_ms == 80 * DELAY
    assert isinstance(client.metadata[1], Ready)
    assert adds_up(engine)


async def test_bye_closes_an_unfinished_utterance(autojump_clock, engine):
    """Its text is sent as a final before the connection closes."""
    client = await talk(engine, speech(1, 6), seed=5)
    assert client.finals == ["1 2 3 4", "5 6"]


async def test_sessions_side_by_side_do_not_affect_each_other(autojump_clock, engine):
    """At different phases, sharing batches, each gets exactly what it would get alone."""
    clients: dict[int, Client] = {}

    async def converse(seed: int) -> None:
        await trio.sleep(0.08 * (seed // 2) + 0.01 * (seed % 2))
        clients[seed] = await talk(engine, speech(seed, 10 + seed), seed=seed)

    async with trio.open_nursery() as nursery:
        for seed in range(4):
            nursery.start_soon(converse, seed)
    for seed, client in clients.items():
        assert same(client.frames, expected(speech(seed, 10 + seed), seed))


async def test_frames_that_wait_together_share_a_batch(autojump_clock, nursery):
    """Frames that arrive while the model is busy run as one batch, with the results they would have alone."""
    steppers: list[SumStepper] = []

    def load_stepper() -> SumStepper:
        steppers.append(SumStepper())
        return steppers[0]

    loaders = Loaders(LOADERS.encoder, load_stepper, LOADERS.decoder)
    runner = functools.partial(slow_inline, batch_s=0.03)
    engine = await serving(make_engine(loaders=loaders, runner=runner), nursery)
    clients: list[Client] = []

    async def converse(seed: int) -> None:
        await trio.sleep(0.01 * seed)
        clients.append(await talk(engine, speech(seed, 12), seed=seed))

    async with trio.open_nursery() as inner:
        for seed in range(4):
            inner.start_soon(converse, seed)
    assert max(steppers[0].widths) > 1
    for client in clients:
        assert any(same(client.frames, expected(speech(seed, 12), seed)) for seed in range(4))


async def test_a_reused_lane_starts_anew(autojump_clock, nursery):
    """Three sessions one after another in one lane each get what they would get alone."""
    engine = await serving(make_engine(lanes=1), nursery)
    for seed in (3, 1, 3):
        client = await talk(engine, speech(seed, 8), seed=seed)
        assert same(client.frames, expected(speech(seed, 8), seed))
    assert engine.health()["lanes"].items() >= {"max": 1, "open": 0, "queued": 0}.items()


async def test_results_are_the_same_on_real_threads(nursery):
    """With a pinned thread per stage and real time."""
    engine = await serving(make_engine(runner=PinnedThread), nursery)
    frames = speech(1, 8)
    client = Client()
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        for k, frame in enumerate(frames):
            await client.send(outgoing.audio(payload_of(frame), float(k)))
        await client.until(lambda c: len(c.audio) == len(frames) - DELAY)
        await client.bye()
    assert same(client.frames, expected(frames, 0))
    await engine.drain()


async def test_a_burst_is_processed_in_order_each_frame_with_its_own_time(autojump_clock, engine):
    """Frame i of a burst of N counts as captured 80·(N−1−i) ms before the last."""
    frames = speech(2, 8)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        await client.send(outgoing.audio(payload_of(np.concatenate(frames)), 2000.25))
        await client.until(lambda c: len(c.audio) == 8 - DELAY)
        assert engine.health()["metrics"]["framesIn"] == 8
        await client.bye()
    assert same(client.frames, expected(frames, 0))
    assert [a.timestamp_ms for a in client.audio] == [2000.25 - 80 * (7 - i) for i in range(DELAY, 8)]


async def test_configure_takes_effect_with_the_next_frame(autojump_clock, engine):
    """A change of sampling between two frames reaches the model between those two."""
    frames = speech(2, 6)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        await client.stream(frames[:3])
        await client.send(outgoing.metadata(Configure(seed=77)))
        await client.stream(frames[3:])
        await client.bye()
    assert same(client.frames[: 3 - DELAY], expected(frames[:3], 0))
    assert not same(client.frames, expected(frames, 0))


async def test_changes_of_configuration_cannot_flood_the_first_channel(autojump_clock, nursery):
    """Beyond eight that wait, a change is refused and the session continues; its lane still closes."""
    runner = functools.partial(slow_inline, batch_s=0.05)
    engine = await serving(make_engine(lanes=1, runner=runner), nursery)
    client = Client()
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        for seed in range(60):
            await client.send(outgoing.audio(payload_of(speech(seed, 1)[0]), 0.0))
            await client.send(outgoing.metadata(Configure(seed=seed)))
        await client.bye()
    assert "busy" in client.errors
    await trio.sleep(1)
    assert engine.health()["lanes"]["open"] == 0
    assert adds_up(engine)


async def test_a_queued_client_gets_each_position_and_then_ready(autojump_clock, nursery):
    """`queued` whenever the position changes, `ready` with the lane; audio before that is refused."""
    engine = await serving(make_engine(lanes=1, queue=2), nursery)
    first, second, third = Client(), Client(), Client()
    early = encode(Packet(PacketType.AUDIO_CHUNK, 0, 0, 0.0, bytes(4 * 1920)))
    async with trio.open_nursery() as inner:
        for client in (first, second, third):
            inner.start_soon(serve_client, engine, client)
            inner.start_soon(client.listen)
            await trio.testing.wait_all_tasks_blocked()
        assert engine.health()["lanes"].items() >= {"max": 1, "open": 1, "queued": 2}.items()
        with pytest.raises(SessionRefusedError) as caught:
            engine.admission.request()
        assert caught.value.code == "full"
        await third.transport.client_send(early)
        await first.bye()
        await second.ready()
        await second.bye()
        await third.ready()
        await third.bye()
    assert third.errors == ["not_ready"]
    assert [m.position for m in third.metadata if isinstance(m, Queued)] == [2, 1]
    assert [m.position for m in second.metadata if isinstance(m, Queued)] == [1]


async def test_bye_from_the_queue_leaves_it(autojump_clock, nursery):
    """A client may leave before it has a lane; the ones behind it move up."""
    engine = await serving(make_engine(lanes=1, queue=2), nursery)
    first, second = Client(), Client()
    async with trio.open_nursery() as inner:
        for client in (first, second):
            inner.start_soon(serve_client, engine, client)
            inner.start_soon(client.listen)
            await trio.testing.wait_all_tasks_blocked()
        began_s = trio.current_time()
        await second.bye()
        assert trio.current_time() == pytest.approx(began_s, abs=0.1)
        assert second.transport.close_reason is CloseReason.NORMAL
        assert engine.health()["lanes"]["queued"] == 0
        await first.bye()


async def stop_reading(engine: Engine, stuck: Client, frames: list[np.ndarray]) -> None:
    """Read until ready, then only send, until the server closes the connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, stuck)
        while not any(isinstance(m, Ready) for m in stuck.metadata):
            event, _ = stuck.conversation.receive(
                await stuck.transport.client_receive(), now_s=trio.current_time()
            )
            stuck.events.append(event)
        with contextlib.suppress(trio.BrokenResourceError):
            await stuck.stream(frames)


async def test_a_client_that_stops_reading_does_not_affect_others(autojump_clock, engine):
    """It is closed at the write deadline and its lane is freed; its neighbour gets every frame in time."""
    stuck = Client(MemoryTransport(buffer=4))
    frames = speech(7, 60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_reading, engine, stuck, frames)
        neighbour = await talk(engine, frames, seed=7)
    assert same(neighbour.frames, expected(frames, 7))
    health = engine.health()
    assert stuck.transport.close_reason is CloseReason.TRY_AGAIN_LATER
    assert health["endings"] == {"not_reading": 1, "bye": 1}
    assert health["lanes"]["open"] == 0
    assert health["metrics"]["underruns"] == 0


async def test_late_audio_is_dropped_for_a_slow_reader(autojump_clock, engine):
    """Audio not written within `max_lag_ms` is dropped, oldest first, and reported."""
    slow = Client(MemoryTransport(buffer=0, send_timeout_s=1e9))
    received: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, slow)
        nursery.start_soon(slow.listen)
        await slow.ready()
        slow.pause_s = 0.5
        await slow.stream(speech(8, 40))
        slow.pause_s = 0.0
        await slow.until(lambda c: any(isinstance(m, Dropped) for m in c.metadata))
        await slow.bye()
        received = [a.timestamp_ms for a in slow.audio]
    (reported,) = {m.what for m in slow.metadata if isinstance(m, Dropped)}
    count = sum(m.count for m in slow.metadata if isinstance(m, Dropped))
    assert reported == "agent_audio"
    assert received == sorted(received)
    assert len(received) + engine.health()["metrics"]["dropped"]["agentAudio"] == 40 - DELAY
    assert 0 < count <= engine.health()["metrics"]["dropped"]["agentAudio"]


async def test_a_burst_beyond_the_credit_loses_its_oldest_frames(autojump_clock, nursery):
    """Eight frames of a lane may wait; more displace the oldest of that lane alone, and that is reported."""
    runner = functools.partial(slow_inline, batch_s=0.004)
    engine = await serving(make_engine(runner=runner), nursery)
    frames = speech(3, 24)
    client = Client()
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        for k in range(0, 24, 8):
            await client.send(outgoing.audio(payload_of(np.concatenate(frames[k : k + 8])), 80.0 * (k + 7)))
        await client.bye()  # at once: it is reported even so
    reported = sum(m.count for m in client.metadata if isinstance(m, Dropped) and m.what == "audio")
    assert 0 < reported <= 16
    kept = 24 - reported
    assert len(client.audio) == kept - DELAY
    assert [a.timestamp_ms for a in client.audio][-6:] == [80.0 * k for k in range(18, 24)]
    assert adds_up(engine)


async def test_a_lane_that_falls_behind_skips_and_keeps_up(autojump_clock, nursery):
    """With a model slower than real time the lag stays bounded; the oldest frames are dropped."""
    runner = functools.partial(slow_inline, batch_s=0.1)
    engine = await serving(make_engine(runner=runner, limits={"max_lag_ms": 240}), nursery)
    client = Client()
    late: list[float] = []
    start_s = math.inf
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        start_s = trio.current_time()

        async def watch() -> None:
            for received in range(1, 55):
                await client.until(lambda c, n=received: len(c.audio) >= n)
                late.append(
                    trio.current_time() - start_s - (client.audio[received - 1].timestamp_ms - 1000.5) / 1000
                )

        inner.start_soon(watch)
        await client.stream(speech(4, 100))
        await trio.sleep(1)
        await client.bye()
    reported = {
        what: sum(m.count for m in client.metadata if isinstance(m, Dropped) and m.what == what)
        for what in ("audio", "agent_audio")
    }
    assert reported["audio"] > 10
    assert max(late) < 0.24 + 0.1 * 4
    metrics = engine.health()["metrics"]
    assert metrics["dropped"]["audio"] == reported["audio"]
    assert metrics["ladder"]["decodeSkipped"] == reported["agent_audio"]
    assert len(client.audio) == 100 - sum(reported.values()) - DELAY
    assert reported["agent_audio"] < 20  # a client gets used to it, and gets the rest


async def test_malformed_audio_is_refused_and_the_session_continues(autojump_clock, engine):
    """Wrong length, empty, NaN: that packet is refused; the frames around it are answered as usual."""
    frames = speech(5, 6)
    nan = frames[0].copy()
    nan[7] = np.nan
    bad = [b"", b"abc", bytes(4 * 1919), payload_of(nan)]
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        await client.stream(frames[:3])
        for payload in bad:
            await client.send(outgoing.audio(payload, 0.0))
        await client.stream(frames[3:])
        await client.bye()
    assert client.errors == ["audio_refused"] * len(bad)
    assert same(client.frames, expected(frames, 0))
    assert engine.health()["metrics"]["audioRefused"] == len(bad)


async def test_samples_in_another_unit_are_told_once(autojump_clock, engine):
    """Floats that were never divided by 32768 are nothing but noise when they are cut off."""
    client, frames = Client(), speech(1, 6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        await client.stream(frames[:3])
        assert client.errors == []
        await client.stream([32768 * frame for frame in frames[3:]])
        await client.bye()
    assert client.errors == ["audio_over_scale"]


async def test_every_session_gets_statistics_each_second(autojump_clock, engine):
    """`stats` goes to every client, queued ones included, with the session's own counters."""
    client = await talk(engine, speech(6, 40), seed=1)
    stats = [m for m in client.metadata if isinstance(m, Stats)]
    assert len(stats) == 3
    assert stats[-1].frames_in in range(36, 40)
    assert stats[-1].lanes_open == 1
    assert stats[-1].frames_dropped == 0


async def test_health_shows_the_engine(autojump_clock, engine):
    """The shape of `/health`, with figures that match a session that was served."""
    await talk(engine, speech(6, 30), seed=1)
    health = engine.health()
    assert health["status"] == "ready"
    assert health["readiness"] == {"lm": True, "mimi": True}
    assert health["clients"] == 0
    metrics = health["metrics"]
    assert (metrics["encode"]["count"], metrics["step"]["count"], metrics["decode"]["count"]) == (30, 30, 28)
    assert set(metrics["step"]) == {"count", "avgMs", "lastMs", "p50", "p95", "p99", "maxMs"}
    assert metrics["step"]["lastMs"] > 0
    assert metrics["budgetMs"] == 30
    assert metrics["overBudget"] == 0
    assert (metrics["framesIn"], metrics["framesOut"]) == (30, 28)
    assert list(metrics["queues"]) == ["user_frames", "user_codes", "agent_codes", "agent_frames"]
    assert metrics["tokenRate"] == pytest.approx(12.5, abs=1.1)


async def test_no_client_can_spoil_the_metrics_of_all(autojump_clock, engine):
    """It cannot have had more gaps than frames; a page that was loaded again starts at 0 and loses none."""
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        for reported in (2, 1):
            await client.send(outgoing.metadata(ClientStats(underruns=reported)))
        await client.stream(speech(1, 8))
        assert engine.health()["metrics"]["clientUnderruns"] == 3
        await client.send(outgoing.metadata(ClientStats(underruns=2**53 - 1, last_played_frame=2**53 - 1)))
        await client.bye()
    metrics = engine.health()["metrics"]
    assert metrics["clientUnderruns"] == metrics["framesOut"] == 6


async def test_each_session_leaves_one_log_event(autojump_clock, engine):
    """Peer, reason, counters and duration; no audio and no text."""
    with capture_logs() as logs:
        client = Client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_client, engine, client)
            nursery.start_soon(client.listen)
            await client.ready()
            await client.send(outgoing.metadata(ClientStats(underruns=2)))
            await client.stream(speech(1, 5))
            await client.bye()
    (entry,) = logs
    assert entry["event"] == "session"
    assert entry["log_level"] == "info"
    assert (entry["reason"], entry["close_reason"], entry["peer"]) == ("bye", "normal", "memory")
    assert (entry["frames_in"], entry["frames_out"], entry["client_underruns"]) == (5, 3, 2)
    assert entry["duration_s"] == pytest.approx(0.4)
    assert not any("1 2" in str(value) for value in entry.values())


async def test_draining_finishes_every_utterance_and_ends_the_engine(autojump_clock):
    """Clients get `draining`, the rest of their audio, and a close; new ones are refused; `run` returns."""
    engine = make_engine(lanes=1, queue=1)
    speaking, waiting = Client(), Client()
    async with trio.open_nursery() as nursery:
        await serving(engine, nursery)
        for client in (speaking, waiting):
            nursery.start_soon(serve_client, engine, client)
            nursery.start_soon(client.listen)
            await trio.testing.wait_all_tasks_blocked()
        await speaking.stream(speech(1, 6))
        nursery.start_soon(engine.drain)  # twice, as by two signals
        await engine.drain()
        with pytest.raises(SessionRefusedError) as caught:
            engine.admission.request()
        assert caught.value.code == "draining"
    for client in (speaking, waiting):
        assert sum(isinstance(m, Draining) for m in client.metadata) == 1
        assert client.transport.close_reason is CloseReason.GOING_AWAY
    assert speaking.finals == ["1 2 3 4", "5 6"]
    assert isinstance(speaking.events[-1], TextReceived)


async def test_draining_does_not_wait_for_a_client_that_does_not_read(autojump_clock):
    """It is closed at the deadline."""
    engine = make_engine(drain_s=3, limits={"send_timeout_s": 2})
    stuck = Client(MemoryTransport(buffer=0, send_timeout_s=1e9))
    async with trio.open_nursery() as nursery:
        await serving(engine, nursery)
        nursery.start_soon(serve_client, engine, stuck)
        await trio.testing.wait_all_tasks_blocked()
        began_s = trio.current_time()
        await engine.drain()
        assert trio.current_time() - began_s <= 3 + 2
    assert stuck.transport.close_reason is CloseReason.GOING_AWAY


async def test_audio_sent_while_the_server_drains_is_ignored(autojump_clock):
    """Frames behind the lane's closing do not enter the engine; those before it are all answered."""
    engine = make_engine(runner=functools.partial(slow_inline, batch_s=0.03))
    client = Client()
    async with trio.open_nursery() as nursery:
        await serving(engine, nursery)
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()

        async def keep_sending() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await client.stream(speech(1, 200), every_s=0.01)

        nursery.start_soon(keep_sending)
        await trio.sleep(0.055)
        await engine.drain()
    metrics = engine.health()["metrics"]
    assert metrics["framesIn"] == 6
    assert metrics["framesOut"] == len(client.audio) == 6 - DELAY


async def test_a_client_admitted_just_before_a_drain_is_closed(autojump_clock, nursery):
    """It gets `draining`; no lane is opened, and the connection is closed at once."""
    engine = await serving(make_engine(), nursery)
    client = Client()
    with engine.admit() as reservation:
        engine.admission.drain()
        async with trio.open_nursery() as inner:
            inner.start_soon(client.listen)
            with trio.fail_after(60):
                await engine.serve(client.transport, reservation)
    assert any(isinstance(m, Draining) for m in client.metadata)
    assert client.transport.close_reason is CloseReason.GOING_AWAY
    assert engine.health()["metrics"]["queues"]["user_frames"]["sent"] == 0


@pytest.mark.parametrize("leaves", ["bye", "drain"])
async def test_a_graceful_close_waits_for_a_slow_model_until_drain_s(autojump_clock, nursery, leaves):
    """It waits for the frames that are due, and no longer."""
    engine = make_engine(runner=functools.partial(slow_inline, batch_s=20), drain_s=3, stall_s=60)
    client = Client()
    await serving(engine, nursery)
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        await client.stream(speech(1, 1))
        began_s = trio.current_time()
        await (client.bye() if leaves == "bye" else engine.drain())
        assert trio.current_time() - began_s == pytest.approx(3, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_drain_with_a_stuck_model_and_a_client_that_does_not_read_is_bounded(autojump_clock, nursery):
    """It takes `drain_s` and no more."""
    engine = make_engine(runner=functools.partial(slow_inline, batch_s=20), drain_s=3, stall_s=60)
    stuck = Client(MemoryTransport(buffer=0, send_timeout_s=1e9))
    await serving(engine, nursery)
    nursery.start_soon(stop_reading, engine, stuck, speech(1, 1))
    await trio.sleep(1)
    began_s = trio.current_time()
    await engine.drain()
    assert trio.current_time() - began_s == pytest.approx(3, abs=0.1)
    nursery.cancel_scope.cancel()


async def test_heartbeats_are_answered_and_packets_acknowledged(autojump_clock, engine):
    """Replies go through the same queue as everything else."""
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        await client.transport.client_send(encode(Packet(PacketType.HEARTBEAT, 3, 0, 0.0, b"")))
        await client.transport.client_send(encode(Packet(0x77, 3, 41, 0.0, b"", wants_ack=True)))
        await client.until(lambda c: HeartbeatReceived() in c.events)
        await client.until(lambda c: Ignored("unknown_ack") in c.events)  # it remembers no seq 41 of its own
        await client.bye()


async def test_a_frame_that_came_in_time_and_left_late_is_an_underrun(autojump_clock, nursery):
    """With 90 ms of model for every 80 ms of speech every frame is one, and they are counted."""
    engine = await serving(make_engine(runner=functools.partial(slow_inline, batch_s=0.03)), nursery)
    client = await talk(engine, speech(1, 12), seed=1)
    assert engine.health()["metrics"]["underruns"] == len(client.audio)


HOUR_FRAMES = 3600 * 1000 // 80


@pytest.mark.parametrize("ppm", [-24 * 50, 24 * 50])
async def test_a_clock_that_drifts_as_far_as_in_a_day_causes_no_underrun(mock_clock, ppm):
    """An hour of a session, its client's clock 24 times 50 ppm off: 4.3 s apart, as 50 ppm are after a day.

    No underrun at the server or the client, nothing dropped or skipped; and the deadline has not moved:
    the one frame that leaves 150 ms late is an underrun. (A real session, dispatcher, decoder and send
    queue, with the models' time between them. The day itself: `test_pacing`.)
    """
    inbox = Channel[UserFrame]("user_frames", 18, lane_frames=8)
    admission = Admission(inbox, lanes=1, queue=0)
    admission.open()
    dispatcher = Dispatcher(Channel("agent_frames", 18, lane_frames=2), admission)
    session = Session(
        admission.request(),
        inbox,
        SamplingParams(),
        Latencies(),
        tracer=Tracer(0),
        max_lag_s=0.4,
        recorder=None,
    )
    queue, decoder = SendQueue(max_lag_s=0.4), Decoder(SumDecoder())
    session.attach(queue)
    session.open(dispatcher)
    await queue.take()  # ready
    decoder.apply(inbox.take_batch_nowait().events[0])
    payload, codes = bytes(payload_of(speech(1, 1)[0])), np.ones(CODEBOOKS, np.int32)
    rng, listener, skew = random.Random(ppm), Playout(prebuffer_ms=80), 1 - ppm / 1e6
    for index in range(HOUR_FRAMES):
        is_last = index == HOUR_FRAMES - 1
        jitter_s = 0.0 if is_last else 0.03 * rng.random()
        mock_clock.jump(0.08 * skew * (index + 1) + jitter_s - trio.current_time())
        session.receive_audio(AudioReceived(index, 80.0 * index, payload), trio.current_time())
        (frame,) = inbox.take_batch_nowait().frames
        mock_clock.jump(0.005 + 0.015 * rng.random())
        step = AgentCodes(frame.header, 0, (), codes)
        answers = decoder.run([step], trio.current_time())
        if is_last:
            assert (session.counters().underruns, listener.underruns) == (0, 0)
            mock_clock.jump(0.15)
        dispatcher._deliver(Batch((), tuple(answers), ()))
        (_, answer, _) = await queue.take()
        session.record_sent(answer)
        listener.record_arrival(index, round(trio.current_time() / skew * 1e9))
    assert session.counters() == SessionCounters(frames_in=HOUR_FRAMES, frames_out=HOUR_FRAMES, underruns=1)
    assert listener.underruns == 1


async def test_before_the_models_are_loaded_sessions_are_refused(autojump_clock, nursery):
    """With `not_ready`; health shows which model is missing."""
    runner = functools.partial(slow_inline, batch_s=1.0)
    engine = make_engine(runner=runner)
    await nursery.start(engine.run)
    with pytest.raises(SessionRefusedError) as caught:
        engine.admission.request()
    assert caught.value.code == "not_ready"
    assert engine.health()["status"] == "not_ready"
    assert engine.health()["readiness"] == {"lm": False, "mimi": False}
    await engine.ready.wait()
    assert engine.admission.request().lane == 0


async def test_a_protocol_error_is_reported_and_closes_the_connection(autojump_clock, engine):
    """A malformed packet with `error` and 1002; a text frame with 1003."""
    for message, code, close_reason in (
        (b"", "empty_message", CloseReason.PROTOCOL_ERROR),
        (b"\x10\x00", "short_header", CloseReason.PROTOCOL_ERROR),
        ("hello", "text_frame", CloseReason.UNSUPPORTED_DATA),
    ):
        client = Client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_client, engine, client)
            nursery.start_soon(client.listen)
            await client.ready()
            await client.transport.client_send(message)
            await client.until(lambda c: c.over)
        assert [m.code for m in client.metadata if isinstance(m, ErrorNotice)] == [code]
        assert client.transport.close_reason is close_reason
    await trio.sleep(0.1)
    assert engine.health()["lanes"]["open"] == 0
