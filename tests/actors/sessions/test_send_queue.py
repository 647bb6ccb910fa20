"""Laws of the queue: it never blocks, never grows beyond its bound, and leaves out the least first."""

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


async def test_urgent_packets_go_first_and_each_priority_in_order():
    """Audio, then control and final text, then partial text, then reports; equals in their order."""
    queue = SendQueue(max_lag_s=1)
    for packet in (LOW, PARTIAL, CONTROL, audio(1), outgoing.ack(7), audio(2)):
        queue.put(packet)
    taken = await everything(queue)
    assert taken == [audio(1), audio(2), CONTROL, outgoing.ack(7), PARTIAL, LOW]


async def test_a_partial_gives_way_to_a_newer_one_and_to_its_final():
    """Only the newest matters, and none comes after the final that closes its utterance."""
    queue = SendQueue(max_lag_s=1)
    queue.put(outgoing.text_partial("so"))
    queue.put(PARTIAL)
    assert queue.dropped["superseded"] == 1
    queue.put(FINAL)
    assert await everything(queue) == [FINAL]


async def test_late_audio_is_left_out_oldest_first(autojump_clock):
    """Audio that waited longer than `max_lag_s` is not worth sending once there is newer."""
    queue = SendQueue(max_lag_s=0.4)
    for number in range(10):
        queue.put(audio(number))
        await trio.sleep(0.08)
    assert await everything(queue) == [audio(n) for n in range(4, 10)]
    assert queue.dropped["audio"] == 4


async def test_a_full_outbox_leaves_out_reports_then_text_then_audio():
    """The ladder: LOW, the partial, the oldest audio, each counted; control and finals stay."""
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


async def test_what_matters_least_does_not_displace_what_matters_more():
    """In a full queue a new report, and a new partial, are themselves what is left out."""
    queue = SendQueue(max_lag_s=1, capacity=2)
    for packet in (audio(1), CONTROL, LOW, PARTIAL):
        queue.put(packet)
    assert (queue.dropped["low"], queue.dropped["partial"]) == (1, 1)
    assert await everything(queue) == [audio(1), CONTROL]


async def test_what_must_not_be_left_out_fails_the_outbox_instead(autojump_clock):
    """Full of control, it fails: whoever takes or waits to take learns of it, and nothing is written."""
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
    """`sent = taken + leaked + depth`, the bound holds; what must not leak is taken, held or failed for."""

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
