"""The send queue never blocks, never grows beyond its bound, and drops what matters least first."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.sessions.send_queue import SendQueue, SendQueueFullError
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import Ready, Stats
from pipeline.protocol.packets import Priority

STATS = Stats(frames_in=0, frames_out=0, frames_dropped=0, underruns=0, lanes_open=0, lanes_max=1, queued=0)
LOW = outgoing.metadata(STATS)
CONTROL = outgoing.metadata(Ready())
PARTIAL = outgoing.text_partial("so far")
FINAL = outgoing.text_final("so far")


def audio(number: int = 0) -> outgoing.OutgoingPacket:
    return outgoing.audio(bytes(4), float(number))


async def everything(queue: SendQueue) -> list[outgoing.OutgoingPacket]:
    queue.close()
    taken = []
    try:
        while True:
            taken.append((await queue.take()).packet)
    except trio.EndOfChannel:
        return taken


async def test_packets_are_taken_by_priority_then_in_order():
    """Audio, then control and final text, then partial text, then reports."""
    queue = SendQueue(max_lag_s=1)
    for packet in (LOW, PARTIAL, CONTROL, audio(1), outgoing.ack(7), audio(2)):
        queue.put(packet)
    taken = await everything(queue)
    assert taken == [audio(1), audio(2), CONTROL, outgoing.ack(7), PARTIAL, LOW]


async def test_a_partial_is_superseded_by_a_newer_one_and_by_its_final():
    """Only the newest is sent, and none after the final that closes its utterance."""
    queue = SendQueue(max_lag_s=1)
    queue.put(outgoing.text_partial("so"))
    queue.put(PARTIAL)
    assert queue.dropped["superseded"] == 1
    queue.put(FINAL)
    assert await everything(queue) == [FINAL]


async def test_late_audio_is_dropped_oldest_first(autojump_clock):
    """Audio that waited longer than `max_lag_s` is dropped once there is newer."""
    queue = SendQueue(max_lag_s=0.4)
    for number in range(10):
        queue.put(audio(number))
        await trio.sleep(0.08)
    assert await everything(queue) == [audio(n) for n in range(4, 10)]
    assert queue.dropped["audio"] == 4


async def test_a_full_queue_drops_reports_then_text_then_audio():
    """LOW, then the partial, then the oldest audio, each counted; control and finals stay."""
    queue = SendQueue(max_lag_s=1, capacity=4)
    for packet in (LOW, PARTIAL, audio(1), audio(2)):
        queue.put(packet)
    queue.put(CONTROL)
    assert queue.dropped["low"] == 1
    queue.put(CONTROL)
    assert queue.dropped["partial"] == 1
    queue.put(CONTROL)
    assert queue.dropped["audio"] == 1
    assert await everything(queue) == [audio(2), CONTROL, CONTROL, CONTROL]


async def test_a_packet_does_not_displace_one_that_matters_more():
    """In a full queue a new report or a new partial is itself dropped."""
    queue = SendQueue(max_lag_s=1, capacity=2)
    for packet in (audio(1), CONTROL, LOW, PARTIAL):
        queue.put(packet)
    assert (queue.dropped["low"], queue.dropped["partial"]) == (1, 1)
    assert await everything(queue) == [audio(1), CONTROL]


async def test_a_queue_full_of_packets_that_must_not_be_dropped_fails(autojump_clock):
    """Every task that takes, or waits to take, gets the error, and nothing is written."""
    queue = SendQueue(max_lag_s=1, capacity=2)
    for _ in range(3):
        queue.put(FINAL)
    with pytest.raises(SendQueueFullError):
        await queue.take()
    waiting = SendQueue(max_lag_s=1)
    async with trio.open_nursery() as nursery:

        async def take():
            with pytest.raises(LookupError):
                await waiting.take()

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        waiting.fail(LookupError())
        waiting.put(FINAL)
    assert waiting.statistics().depth == 0


async def test_taking_waits_and_is_a_checkpoint(autojump_clock):
    """An empty queue waits for the next packet; cancelled, nothing was taken."""
    queue = SendQueue(max_lag_s=1)
    with trio.move_on_after(1) as scope:
        await queue.take()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.take)
        await trio.testing.wait_all_tasks_blocked()
        queue.put(LOW)
    queue.put(LOW)
    with trio.testing.assert_checkpoints():
        await queue.take()


KINDS = {"low": LOW, "partial": PARTIAL, "audio": audio(), "final": FINAL, "control": CONTROL}


@given(st.lists(st.sampled_from([*KINDS, "take"]), max_size=40), st.integers(1, 5))
def test_the_counters_always_add_up(ops, capacity):
    """`sent = taken + leaked + depth`, within the bound; HIGH packets are taken, queued, or fail it."""

    async def check():
        queue = SendQueue(max_lag_s=1, capacity=capacity)
        kept = lost = 0
        for op in ops:
            s = queue.statistics()
            try:
                if op != "take":
                    queue.put(KINDS[op])
                    kept += KINDS[op].priority == Priority.HIGH
                elif s.depth:
                    lost += (await queue.take()).packet.priority == Priority.HIGH
            except SendQueueFullError:
                return
            s = queue.statistics()
            assert s.sent == s.taken + s.leaked + s.depth
            assert s.leaked == queue.dropped.total()
            assert s.depth <= s.peak <= capacity
        with trio.move_on_after(0):
            rest = await everything(queue) if queue.statistics().depth else []
            assert kept - lost == sum(packet.priority == Priority.HIGH for packet in rest)

    trio.run(check)
