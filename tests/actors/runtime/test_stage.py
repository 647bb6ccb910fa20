"""The loop that the three model actors share, on arithmetic stages and the virtual clock."""

import numpy as np
import pytest
import trio
import trio.testing
from support.actors.fakes import Inline, SumDecoder, SumEncoder, SumStepper, speech

from actors.decoder import Decoder
from actors.encoder import Encoder
from actors.runtime.channel import Channel
from actors.runtime.stage import Stage
from actors.stepper import Stepper
from pipeline.errors import StateLostError, WeightsError
from pipeline.values import (
    AgentCodes,
    AgentFrame,
    FrameHeader,
    LaneClosed,
    LaneConfigured,
    LaneFailed,
    LaneOpened,
    SamplingParams,
    TextFinal,
    UserCodes,
    UserFrame,
)


def user_frame(lane: int, index: int, pcm: np.ndarray) -> UserFrame:
    return UserFrame(FrameHeader(lane, index, 1000.5 + 80 * index, trio.current_time()), pcm)


def encoder_stage(*, room: int = 8):
    inbox: Channel[UserFrame] = Channel("in", 100, lane_frames=8)
    outbox: Channel[UserCodes] = Channel("out", 100, lane_frames=room)
    return inbox, outbox, Stage("encoder", inbox, outbox, stall_s=1)


async def test_a_call_never_overlaps_a_batch(autojump_clock):
    """Although the runner has threads for both: they would use the worker's state at once."""
    inbox, outbox, stage = encoder_stage(room=100)
    busy = 0

    class Slow(Inline):
        async def run(self, call, *args, **options):
            nonlocal busy
            assert not busy, "two at once"
            busy += 1
            await trio.sleep(0.03)
            busy -= 1
            return call(*args)

    async def call_often() -> None:
        await stage.ready.wait()
        for _ in range(20):
            await stage.call_between_batches(lambda worker: order.append("call"))

    order: list[str] = []
    inbox.put_nowait(LaneOpened(0, SamplingParams()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run, Slow(), lambda: Encoder(SumEncoder()))
        nursery.start_soon(call_often)
        for index, pcm in enumerate(speech(1, 8)):
            inbox.put_nowait(user_frame(0, index, pcm))
            await trio.sleep(0.08)
            order.append("frame")
            assert len((await outbox.take_batch()).frames) == 1, "the batch that waited was next"
        inbox.close()
    assert order.count("call") == 20


async def drain(channel) -> list:
    """All that comes out until the channel ends."""
    out: list = []
    try:
        while True:
            batch = await channel.take_batch()
            out += [*batch.events, *batch.frames]
    except trio.EndOfChannel:
        return out


async def serve(stage: Stage, outbox: Channel, load, runner: Inline | None = None) -> list:
    """All that comes out of a stage whose inbox is closed, taken as it comes."""
    out: list = []

    async def take() -> None:
        out.extend(await drain(outbox))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await stage.run(runner or Inline(), load)
    return out


async def test_waiting_frames_run_as_one_batch_without_waiting_for_more():
    """Frames of several lanes that wait together are one call; a lone frame is a call of its own."""
    inbox, outbox, stage = encoder_stage()
    sums = SumEncoder()
    pcm = speech(1, 4)
    for lane in (0, 1, 2):
        inbox.put_nowait(LaneOpened(lane, SamplingParams()))
        inbox.put_nowait(user_frame(lane, 0, pcm[lane]))
    inbox.put_nowait(user_frame(1, 1, pcm[3]))
    inbox.close()
    out = await serve(stage, outbox, lambda: Encoder(sums))
    assert sums.widths == [3, 1]
    assert [(o.lane, o.index) for o in out if isinstance(o, UserCodes)] == [(0, 0), (1, 0), (2, 0), (1, 1)]
    assert stage.timing.count == 2
    alone = SumEncoder()
    alone.open(1, SamplingParams())
    rows = [alone.encode([1], pcm[i][None])[0] for i in (1, 3)]
    np.testing.assert_array_equal([o.codes for o in out if o.lane == 1 and isinstance(o, UserCodes)], rows)


async def test_events_are_applied_in_order_and_travel_on():
    """A lane that is reused starts anew, and everything comes out in the order it went in."""
    inbox, outbox, stage = encoder_stage()
    pcm = speech(2, 1)[0]
    items = [
        LaneOpened(0, SamplingParams(seed=9)),
        user_frame(0, 0, pcm),
        LaneConfigured(0, SamplingParams(seed=8)),
        user_frame(0, 1, pcm),
        LaneClosed(0),
        LaneOpened(0, SamplingParams(seed=9)),
        user_frame(0, 0, pcm),
        LaneClosed(0),
    ]
    for item in items:
        inbox.put_nowait(item)
    inbox.close()
    out = await serve(stage, outbox, lambda: Encoder(SumEncoder()))
    assert [o if not isinstance(o, UserCodes) else "frame" for o in out] == [
        i if not isinstance(i, UserFrame) else "frame" for i in items
    ]
    first, _, again = [o.codes for o in out if isinstance(o, UserCodes)]
    np.testing.assert_array_equal(first, again)


async def test_a_closing_event_carries_the_unfinished_utterance():
    """The stepper's last text travels on the closing event."""
    inbox: Channel[UserCodes] = Channel("in", 100, lane_frames=8)
    outbox: Channel[AgentCodes] = Channel("out", 100, lane_frames=8)
    inbox.put_nowait(LaneOpened(3, SamplingParams()))
    inbox.put_nowait(UserCodes(FrameHeader(3, 0, 0.0, 0.0), np.ones(4, np.int32)))
    inbox.put_nowait(LaneClosed(3))
    inbox.close()
    stage = Stage("stepper", inbox, outbox, stall_s=1)
    assert (await serve(stage, outbox, lambda: Stepper(SumStepper())))[-1] == LaneClosed(3, (TextFinal("1"),))


async def test_a_step_without_codes_is_not_decoded():
    """It becomes a frame without audio, the decoder's state does not change, and no batch is timed."""
    inbox: Channel[AgentCodes] = Channel("in", 100, lane_frames=8)
    outbox: Channel[AgentFrame] = Channel("out", 100, lane_frames=8)
    for lane, codes in ((0, None), (1, np.full(4, 7, np.int32))):
        inbox.put_nowait(LaneOpened(lane, SamplingParams()))
        inbox.put_nowait(AgentCodes(FrameHeader(lane, 0, 5.0, 0.0), 1, (TextFinal("x"),), codes))
    inbox.put_nowait(AgentCodes(FrameHeader(0, 1, 5.0, 0.0), 1, (), None))
    inbox.close()
    sums = SumDecoder()
    stage = Stage("decoder", inbox, outbox, stall_s=1)
    out = await serve(stage, outbox, lambda: Decoder(sums))
    silent, spoken, _ = [o for o in out if isinstance(o, AgentFrame)]
    assert silent.pcm is None
    assert silent.text == (TextFinal("x"),)
    assert spoken.pcm is not None
    assert sums.sums[0] == 0
    assert (sums.widths, stage.timing.count) == ([1], 1)


async def test_waiting_for_a_busy_model_is_not_added_latency(autojump_clock):
    """The wait of a frame for the batch before is model time; a frame that finds the stage idle has none."""
    inbox, outbox, stage = encoder_stage()
    runner = Inline()
    runner.batch_s = 0.02
    inbox.put_nowait(LaneOpened(0, SamplingParams()))
    out: list = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            out.extend(await serve(stage, outbox, lambda: Encoder(SumEncoder()), runner))

        await stage.ready.wait()
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        pcm = speech(3, 1)[0]
        inbox.put_nowait(user_frame(0, 0, pcm))
        await trio.sleep(0.005)
        inbox.put_nowait(user_frame(0, 1, pcm))
        inbox.close()
    first, second = [o for o in out if isinstance(o, UserCodes)]
    assert first.header.model_s == pytest.approx(first.header.batch_s)
    assert second.header.model_s - second.header.batch_s == pytest.approx(0.015)


async def test_a_full_channel_downstream_slows_the_stage_down(autojump_clock):
    """Nothing is lost, and the wait counts as one for a busy model."""
    inbox, outbox, stage = encoder_stage(room=1)
    inbox.put_nowait(LaneOpened(0, SamplingParams()))
    for index, pcm in enumerate(speech(4, 5)):
        inbox.put_nowait(user_frame(0, index, pcm))
    inbox.close()
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run, Inline(), lambda: Encoder(SumEncoder()))
        for _ in range(5):
            await trio.sleep(0.1)
            seen += (await outbox.take_batch()).frames
    assert [f.index for f in seen] == list(range(5))
    assert seen[4].header.model_s > 0.2


async def test_no_batch_begins_while_the_previous_one_waits_downstream(autojump_clock):
    """Until the next stage takes it, frames gather, and are one batch then."""
    inbox, outbox, stage = encoder_stage()
    sums = SumEncoder()
    pcm = speech(5, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run, Inline(), lambda: Encoder(sums))
        for lane in range(3):
            inbox.put_nowait(LaneOpened(lane, SamplingParams()))
            inbox.put_nowait(user_frame(lane, 0, pcm[lane]))
            await trio.testing.wait_all_tasks_blocked()
        assert sums.widths == [1]
        assert [f.lane for f in (await outbox.take_batch()).frames] == [0]
        await trio.testing.wait_all_tasks_blocked()
        assert sums.widths == [1, 2]
        assert [f.lane for f in (await outbox.take_batch()).frames] == [1, 2]
        inbox.close()


class Failing(SumEncoder):
    def encode(self, *_):
        raise ArithmeticError("diverged")


async def test_a_failing_batch_ends_its_lanes_and_no_other():
    """The failure takes the frames' place; later frames of these lanes are dropped until they are closed."""
    inbox, outbox, stage = encoder_stage()
    failing = Failing()
    pcm = speech(5, 1)[0]
    for lane in (0, 1):
        inbox.put_nowait(LaneOpened(lane, SamplingParams()))
    inbox.put_nowait(user_frame(0, 0, pcm))
    inbox.put_nowait(user_frame(0, 1, pcm))
    for event in (LaneClosed(0), LaneOpened(0, SamplingParams())):
        inbox.put_nowait(event)
    inbox.put_nowait(user_frame(0, 2, pcm))
    inbox.close()
    out = await serve(stage, outbox, lambda: Encoder(failing))
    assert [type(item) for item in out if item.lane == 0] == [
        LaneOpened,
        LaneFailed,
        LaneClosed,
        LaneOpened,
        LaneFailed,
    ]


class Lost(SumEncoder):
    def encode(self, lanes, pcm):
        raise StateLostError("the encoder lost its state")


async def test_a_stage_that_lost_its_state_ends():
    """No lane can be trusted, so the error is raised."""
    inbox, _, stage = encoder_stage()
    inbox.put_nowait(LaneOpened(0, SamplingParams()))
    inbox.put_nowait(user_frame(0, 0, speech(5, 1)[0]))
    with pytest.raises(StateLostError):
        await stage.run(Inline(), lambda: Encoder(Lost()))


async def test_a_loaders_error_is_raised_unchanged():
    """A broken checkpoint keeps its class, and with it its exit code."""

    def load() -> Encoder:
        raise WeightsError("mimi.safetensors", "truncated")

    _, outbox, stage = encoder_stage()
    with pytest.raises(WeightsError):
        await stage.run(Inline(), load)
    assert not stage.ready.is_set()
    assert outbox.statistics().sent == 0
