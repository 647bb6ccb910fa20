"""Under overload sessions stay in time: what is dropped, in which order, and how soon they recover."""

import functools
from contextlib import contextmanager

import numpy as np
import pytest
import trio
from support.actors.fakes import (
    DELAY,
    Client,
    Inline,
    MemoryTransport,
    SumDecoder,
    expected,
    make_engine,
    serve_client,
    slow_inline,
    speech,
)

from actors.decoder import Decoder
from actors.runtime.late_frames import MAX_CONSECUTIVE_SKIPS
from pipeline.audio.fade import fade_in
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import ClientStats, Dropped, Stats
from pipeline.values import AgentCodes, FrameHeader, LaneClosed, LaneOpened, SamplingParams


def codes(index: int, due_s: float, lane: int = 0) -> AgentCodes:
    header = FrameHeader(lane, index, 0.0, 0.0, due_s=due_s)
    return AgentCodes(header, 0, (), np.full(4, index, np.int32))


def test_a_frame_past_its_deadline_is_not_decoded_and_the_next_fades_in():
    """The decoder's state does not advance, there is no audio, and the next frame fades in."""
    decoder, alone = Decoder(SumDecoder()), SumDecoder()
    alone.open(0, SamplingParams())
    decoder.apply(LaneOpened(0, SamplingParams()))
    received = [decoder.run([codes(k, 0.0 if k in (2, 3) else 99.0)], 10.0)[0] for k in range(6)]
    assert [frame.skipped for frame in received] == [False, False, True, True, False, False]
    assert [frame.pcm is None for frame in received] == [frame.skipped for frame in received]
    due = [alone.decode([0], codes(k, 0.0).codes[None])[0] for k in (0, 1, 4, 5)]
    due[2] = fade_in(due[2])
    assert all(map(np.array_equal, [f.pcm for f in received if f.pcm is not None], due))


def test_a_constant_delay_does_not_silence_a_session_forever():
    """Always late by as much: a few frames are skipped, then all are decoded again; neighbours throughout."""
    decoder = Decoder(SumDecoder())
    for lane in (0, 1):
        decoder.apply(LaneOpened(lane, SamplingParams()))
    skipped = []
    for k in range(50):
        late, timely = decoder.run([codes(k, 0.0), codes(k, 99.0, lane=1)], 1.0)
        skipped.append(late.skipped)
        assert timely.pcm is not None
    assert skipped == [True] * MAX_CONSECUTIVE_SKIPS + [False] * (50 - MAX_CONSECUTIVE_SKIPS)
    decoder.apply(LaneClosed(0))
    decoder.apply(LaneOpened(0, SamplingParams()))
    assert decoder.run([codes(0, 0.0)], 1.0)[0].skipped


class Stalling(Inline):
    """Takes `stall` seconds for the one call that is running or comes after `at_s`."""

    def __init__(self, at_s: float, stall: float) -> None:
        self.at_s, self.stall = at_s, stall
        self.batch_s = 0.01

    async def run(self, call, *args, stall_s=0.0, abandon_on_cancel=False):
        if trio.current_time() >= self.at_s and self.stall:
            stall, self.stall = self.stall, 0.0
            with trio.CancelScope(shield=True):
                await trio.sleep(stall)
        return await super().run(call, *args, stall_s=stall_s)


@pytest.mark.parametrize("stage", ["encoder", "stepper", "decoder"])
async def test_a_stall_of_three_seconds_is_over_within_two(autojump_clock, nursery, stage):
    """Whichever model stalls: what had to be dropped is reported, and the latency is what it was."""

    @contextmanager
    def runner(name: str):
        yield Stalling(5.0, 3.0 if name == stage else 0.0)

    engine = make_engine(runner=runner)
    await nursery.start(engine.run)
    await engine.ready.wait()
    client = Client(MemoryTransport(buffer=1000))
    latencies: dict[float, float] = {}

    async def watch() -> None:
        received = 0
        while True:
            await client.until(lambda c, known=received: len(c.audio) > known)
            for audio in client.audio[received:]:
                sent_s = began_s + (audio.timestamp_ms - 1000.5) / 1000
                latencies[trio.current_time()] = trio.current_time() - sent_s
            received = len(client.audio)

    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        began_s = trio.current_time()
        async with trio.open_nursery() as watching:
            watching.start_soon(watch)
            await client.stream(speech(1, 150))
            await trio.sleep(1)
            watching.cancel_scope.cancel()
        await client.bye()
    before = [value for at, value in latencies.items() if at < 4.9]
    after = [value for at, value in latencies.items() if at >= 10.0]
    assert len(before) > 40
    assert len(after) > 20
    assert max(after) <= max(before) + 0.001
    reported = {
        what: sum(m.count for m in client.metadata if isinstance(m, Dropped) and m.what == what)
        for what in ("audio", "agent_audio")
    }
    metrics = engine.health()["metrics"]
    assert reported["audio"] == metrics["dropped"]["audio"] > 20
    assert reported["agent_audio"] == metrics["ladder"]["decodeSkipped"] + metrics["dropped"]["agentAudio"]
    assert len(client.audio) == 150 - DELAY - sum(reported.values())
    assert engine.health()["endings"] == {"bye": 1}


async def test_no_more_audio_is_made_for_a_client_that_lags(autojump_clock, nursery):
    """Beyond `max_lag_ms` of audio that it has and has not played, until it plays."""
    engine = make_engine(limits={"max_lag_ms": 400})
    await nursery.start(engine.run)
    await engine.ready.wait()
    client, neighbour = Client(MemoryTransport(buffer=1000)), Client(MemoryTransport(buffer=1000))
    frames = speech(1, 50)
    async with trio.open_nursery() as inner:
        for each in (client, neighbour):
            inner.start_soon(serve_client, engine, each)
            inner.start_soon(each.listen)
            await each.ready()
        await client.stream(frames[:22])  # 20 answers
        await client.send(outgoing.metadata(ClientStats(last_played_frame=7)))  # 12 unplayed, 7 too many
        await client.stream(frames[22:40])
        await neighbour.stream(frames)
        assert len(client.audio) == 20 + 18 - 7
        (skipped,) = {m.decodes_skipped for m in client.metadata[-2:] if isinstance(m, Stats)}
        assert skipped == 7
        await client.send(outgoing.metadata(ClientStats(last_played_frame=len(client.audio) - 1)))
        await client.stream(frames[40:])
        assert len(client.audio) == 20 + 18 - 7 + 10
        await client.bye()
        await neighbour.bye()
    assert sum(m.count for m in client.metadata if isinstance(m, Dropped)) == 7
    assert all(map(np.array_equal, neighbour.frames, expected(frames, 0)))
    assert len(client.finals) == 13


@pytest.mark.parametrize("skew", [1 + 1125e-6, 1 - 1125e-6])
async def test_clocks_that_drift_apart_do_not_underrun(autojump_clock, nursery, skew):
    """90 ms apart in the end, as with 50 ppm after half an hour: no underrun, nothing dropped."""
    engine = make_engine(runner=functools.partial(slow_inline, batch_s=0.005))
    await nursery.start(engine.run)
    await engine.ready.wait()
    client = Client(MemoryTransport(buffer=1000))
    (frame,) = speech(1, 1)
    async with trio.open_nursery() as inner:
        inner.start_soon(serve_client, engine, client)
        inner.start_soon(client.listen)
        await client.ready()
        await client.stream([frame] * 1000, every_s=0.08 * skew)
        await trio.sleep(1)
        await client.bye()
    metrics = engine.health()["metrics"]
    assert (metrics["underruns"], metrics["ladder"]["decodeSkipped"]) == (0, 0)
    assert len(client.audio) == 1000 - DELAY
