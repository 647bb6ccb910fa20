"""The channel: first against a model, then against the virtual clock."""

from collections import deque

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.channel import Batch, Channel, Leak
from pipeline.values import (
    Frame,
    FrameHeader,
    LaneClosed,
    LaneConfigured,
    LaneEvent,
    LaneOpened,
    SamplingParams,
)

SAMPLING = SamplingParams()


def frame(lane: int, index: int, received_s: float = 0.0) -> Frame:
    return Frame(FrameHeader(lane, index, 0.0, received_s))


def adds_up(channel: Channel[Frame]) -> bool:
    s = channel.statistics()
    return s.sent == s.taken + s.leaked + s.depth and s.depth <= s.peak <= s.capacity


def run(test) -> None:
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def make_item(kind: str, lane: int, index: int) -> Frame | LaneEvent:
    match kind:
        case "frame":
            return frame(lane, index)
        case "open":
            return LaneOpened(lane, SamplingParams(seed=index))
        case "configure":
            return LaneConfigured(lane, SamplingParams(seed=index))
        case _:
            return LaneClosed(lane)


def events(items: list[Frame | LaneEvent]) -> list[Frame | LaneEvent]:
    return [item for item in items if not isinstance(item, Frame)]


def flat(batch: Batch[Frame]) -> list[Frame | LaneEvent]:
    return [*batch.events, *batch.frames]


@given(st.lists(st.one_of(st.just("put"), st.just("take"))), st.integers(1, 5))
def test_one_leaky_lane_is_a_deque_with_maxlen(ops, size):
    """Frames of one lane leave a leaky channel as they leave `deque(maxlen=size)`."""

    async def check():
        channel: Channel[Frame] = Channel("c", 100, lane_frames=size, leak=Leak.OLDEST)
        model: deque[int] = deque(maxlen=size)
        for index, op in enumerate(ops):
            if op == "put":
                channel.put_nowait(frame(0, index))
                model.append(index)
            elif model:
                assert [f.index for f in (await channel.take_batch()).frames] == [model.popleft()]
            assert channel.statistics().depth == len(model)
            assert adds_up(channel)

    run(check)


LANE = st.integers(0, 2)
PUT = st.tuples(st.sampled_from(["frame", "open", "configure", "close"]), LANE)


@given(st.lists(st.one_of(PUT, st.just("take")), max_size=60), st.sampled_from(Leak))
def test_no_item_overtakes_another_of_its_lane(ops, leak):
    """Per lane what comes out is what went in, in order, without the leaked frames; events never leak;
    a batch holds at most one frame per lane, and the counters add up."""

    async def check():
        channel: Channel[Frame] = Channel("c", 30, lane_frames=2, leak=leak)
        accepted: dict[int, list[Frame | LaneEvent]] = {0: [], 1: [], 2: []}
        out: dict[int, list[Frame | LaneEvent]] = {0: [], 1: [], 2: []}

        async def take_if_any():
            if channel.statistics().depth:
                batch = await channel.take_batch()
                assert len({f.lane for f in batch.frames}) == len(batch.frames)
                for item in flat(batch):
                    out[item.lane].append(item)

        for index, op in enumerate([*ops, *["take"] * 30]):
            if op == "take":
                await take_if_any()
                continue
            item = make_item(*op, index)
            try:
                channel.put_nowait(item)
            except trio.WouldBlock:
                assert leak is Leak.NEVER or channel.statistics().depth == 30
            else:
                accepted[item.lane].append(item)
            assert adds_up(channel)
        assert channel.statistics().depth == 0
        for lane, items in accepted.items():
            left = iter(items)
            assert all(any(item is kept for kept in left) for item in out[lane]), "reordered"
            assert events(items) == events(out[lane])
        missing = sum(map(len, accepted.values())) - sum(map(len, out.values()))
        assert missing == channel.statistics().leaked
        assert leak is Leak.OLDEST or not missing

    run(check)


async def test_a_batch_stops_at_each_lanes_first_frame():
    """An event behind a frame stays behind it; other lanes do not wait for that."""
    channel: Channel[Frame] = Channel("c", 20, lane_frames=8)
    first, second, other = frame(0, 0), frame(0, 1), frame(1, 0)
    opened, configured, closed = LaneOpened(0, SAMPLING), LaneConfigured(0, SAMPLING), LaneClosed(0)
    for item in (opened, first, configured, second, closed, other):
        channel.put_nowait(item)
    assert flat(await channel.take_batch()) == [opened, first, other]
    assert flat(await channel.take_batch()) == [configured, second]
    assert flat(await channel.take_batch()) == [closed]


async def test_frames_come_in_the_order_of_their_reception():
    """Across lanes the frame received first is taken first, whenever it was put."""
    channel: Channel[Frame] = Channel("c", 20, lane_frames=8)
    for lane, received_s in enumerate([3.0, 1.0, 2.0]):
        channel.put_nowait(frame(lane, 0, received_s))
    batch = await channel.take_batch()
    assert [f.lane for f in batch.frames] == [1, 2, 0]


async def test_late_frames_leak_but_never_the_newest(autojump_clock):
    """A frame older than `max_lag_s` leaks if a newer one of its lane waits; the last one never does."""
    channel: Channel[Frame] = Channel("c", 20, lane_frames=8, leak=Leak.OLDEST, max_lag_s=0.4)
    start_s = trio.current_time()
    for index in range(3):
        channel.put_nowait(frame(0, index, start_s + 0.08 * index))
    channel.put_nowait(frame(1, 0, start_s))
    await trio.sleep(0.45)
    assert [(f.lane, f.index) for f in (await channel.take_batch()).frames] == [(1, 0), (0, 1)]
    await trio.sleep(10)
    assert [f.index for f in (await channel.take_batch()).frames] == [2]
    assert channel.statistics().leaked == 1


async def test_puts_into_a_full_channel_wait_in_order(autojump_clock):
    """Without a leak a put waits for room, in order, and counts as offered from its call on."""
    channel: Channel[Frame] = Channel("c", 9, lane_frames=1)
    channel.put_nowait(frame(0, 0))
    with pytest.raises(trio.WouldBlock):
        channel.put_nowait(frame(0, 1))
    began_s = trio.current_time()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for index in (1, 2, 3):
                nursery.start_soon(channel.put, frame(0, index))
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                channel.put_nowait(frame(7, 0))  # even with room of its own: it may not jump the queue
            order = []
            for _ in range(4):
                await trio.sleep(1)
                batch = await channel.take_batch()
                order += [
                    (f.index, at - began_s) for f, at in zip(batch.frames, batch.offered_s, strict=True)
                ]
    assert order == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert adds_up(channel)


async def test_a_cancelled_put_or_take_changes_nothing(autojump_clock):
    """Cancelled, a put was never added and a take has taken nothing; those behind get their turn."""
    channel: Channel[Frame] = Channel("c", 3, lane_frames=1)
    with trio.move_on_after(1) as scope:
        await channel.take_batch()
    assert scope.cancelled_caught
    channel.put_nowait(frame(0, 0))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            blocked = trio.CancelScope()

            async def put_cancelled():
                with blocked:
                    await channel.put(frame(0, 1))

            nursery.start_soon(put_cancelled)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(channel.put, frame(1, 0))
            await trio.testing.wait_all_tasks_blocked()
            assert channel.statistics().depth == 1
            blocked.cancel()
            await trio.testing.wait_all_tasks_blocked()
    assert flat(await channel.take_batch()) == [frame(0, 0), frame(1, 0)]
    assert adds_up(channel)


async def test_put_and_take_are_checkpoints():
    """Whether or not they have to wait, other tasks run, and they can be cancelled."""
    channel: Channel[Frame] = Channel("c", 3, lane_frames=1)
    with trio.testing.assert_checkpoints():
        await channel.put(frame(0, 0))
    with trio.testing.assert_checkpoints():
        await channel.take_batch()
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.put(frame(0, 0))
    assert scope.cancelled_caught
    assert channel.statistics().depth == 0


async def test_after_close_items_can_be_taken_and_not_put(autojump_clock):
    """Puts fail, also those that waited; takers get what is there, then the end."""
    channel: Channel[Frame] = Channel("c", 3, lane_frames=1)
    channel.put_nowait(frame(0, 0))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def put_in_vain():
                with pytest.raises(trio.ClosedResourceError):
                    await channel.put(frame(0, 1))

            nursery.start_soon(put_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            channel.close()
    with pytest.raises(trio.ClosedResourceError):
        channel.put_nowait(frame(1, 0))
    assert flat(await channel.take_batch()) == [frame(0, 0)]
    with pytest.raises(trio.EndOfChannel):
        await channel.take_batch()
    assert adds_up(channel)


async def test_closing_wakes_waiting_takers(autojump_clock):
    """A taker of an empty channel gets its end."""
    channel: Channel[Frame] = Channel("c", 3, lane_frames=1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def take_in_vain():
                with pytest.raises(trio.EndOfChannel):
                    await channel.take_batch()

            nursery.start_soon(take_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            channel.close()


async def test_items_put_together_are_taken_together(nursery):
    """A taker that waits gets every item of one `put_all` in one batch."""
    channel: Channel[Frame] = Channel("c", 100, lane_frames=4)
    batches: list[Batch[Frame]] = []

    async def take() -> None:
        batches.append(await channel.take_batch())

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    items = [LaneOpened(0, SAMPLING), frame(0, 0), frame(1, 0), frame(2, 0)]
    await channel.put_all(items)
    await trio.testing.wait_all_tasks_blocked()
    assert [flat(batch) for batch in batches] == [items]


async def test_put_all_waits_for_room_in_order(nursery):
    """`put_all` beyond the capacity continues as room is made, in order."""
    channel: Channel[Frame] = Channel("c", 2, lane_frames=4)
    items = [frame(lane, 0) for lane in range(5)]
    nursery.start_soon(channel.put_all, items)
    seen: list[Frame | LaneEvent] = []
    while len(seen) < len(items):
        seen += flat(await channel.take_batch())
        assert adds_up(channel)
    assert seen == items


async def test_wait_empty_ends_when_the_last_item_is_taken_or_with_the_close(nursery):
    """Not while an item is left; and at once if there is none."""
    channel: Channel[Frame] = Channel("c", 10, lane_frames=4)
    await channel.wait_empty()
    ends: list[str] = []

    async def wait(name: str) -> None:
        await channel.wait_empty()
        ends.append(name)

    channel.put_nowait(frame(0, 0))
    channel.put_nowait(frame(0, 1))
    nursery.start_soon(wait, "taken")
    await trio.testing.wait_all_tasks_blocked()
    await channel.take_batch()
    await trio.testing.wait_all_tasks_blocked()
    assert not ends
    await channel.take_batch()
    await trio.testing.wait_all_tasks_blocked()
    assert ends == ["taken"]
    channel.put_nowait(frame(0, 2))
    nursery.start_soon(wait, "closed")
    await trio.testing.wait_all_tasks_blocked()
    channel.close()
    await trio.testing.wait_all_tasks_blocked()
    assert ends == ["taken", "closed"]
