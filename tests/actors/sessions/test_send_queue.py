"""Laws of the outbox: it never blocks, never grows beyond its bound, and leaves out the least first."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.sessions.send_queue import Outbox, OutboxFullError
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import Ready, Stats
from pipeline.protocol.packets import Priority

STATS = Stats(frames_in=0, frames_out=0, frames_dropped=0, underruns=0, lanes_open=0, lanes_max=1, queued=0)
LOW = outgoing.metadata(STATS)
CONTROL = outgoing.metadata(Ready())
PARTIAL = outgoing.text_partial("so far")
FINAL = outgoing.text_final("so far")


def audio(number: int = 0) -> outgoing.Outgoing:
    return outgoing.audio(bytes(4), float(number))


async def everything(outbox: Outbox) -> list[outgoing.Outgoing]:
    outbox.close()
    taken = []
    try:
        while True:
            taken.append((await outbox.take()).said)
    except trio.EndOfChannel:
        return taken


async def test_urgent_packets_go_first_and_each_priority_in_order():
    """Audio, then control and final text, then partial text, then reports; equals in their order."""
    outbox = Outbox(max_lag_s=1)
    for said in (LOW, PARTIAL, CONTROL, audio(1), outgoing.ack(7), audio(2)):
        outbox.put(said)
    taken = await everything(outbox)
    assert taken == [audio(1), audio(2), CONTROL, outgoing.ack(7), PARTIAL, LOW]


async def test_a_partial_gives_way_to_a_newer_one_and_to_its_final():
    """Only the newest matters, and none comes after the final that closes its utterance."""
    outbox = Outbox(max_lag_s=1)
    outbox.put(outgoing.text_partial("so"))
    outbox.put(PARTIAL)
    assert outbox.left_out("superseded") == 1
    outbox.put(FINAL)
    assert await everything(outbox) == [FINAL]


async def test_late_audio_is_left_out_oldest_first(autojump_clock):
    """Audio that waited longer than `max_lag_s` is not worth sending once there is newer."""
    outbox = Outbox(max_lag_s=0.4)
    for number in range(10):
        outbox.put(audio(number))
        await trio.sleep(0.08)
    assert await everything(outbox) == [audio(n) for n in range(4, 10)]
    assert outbox.left_out("audio") == 4


async def test_a_full_outbox_leaves_out_reports_then_text_then_audio():
    """The ladder: LOW, the partial, the oldest audio, each counted; control and finals stay."""
    outbox = Outbox(max_lag_s=1, capacity=4)
    for said in (LOW, PARTIAL, audio(1), audio(2)):
        outbox.put(said)
    outbox.put(CONTROL)
    assert outbox.left_out("low") == 1
    outbox.put(CONTROL)
    assert outbox.left_out("partial") == 1
    outbox.put(CONTROL)
    assert outbox.left_out("audio") == 1
    assert await everything(outbox) == [audio(2), CONTROL, CONTROL, CONTROL]


async def test_what_matters_least_does_not_displace_what_matters_more():
    """In a full outbox a new report, and a new partial, are themselves what is left out."""
    outbox = Outbox(max_lag_s=1, capacity=2)
    for said in (audio(1), CONTROL, LOW, PARTIAL):
        outbox.put(said)
    assert (outbox.left_out("low"), outbox.left_out("partial")) == (1, 1)
    assert await everything(outbox) == [audio(1), CONTROL]


async def test_what_must_not_be_left_out_fails_the_outbox_instead(autojump_clock):
    """Full of control, it fails: whoever takes or waits to take learns of it, and nothing is written."""
    outbox = Outbox(max_lag_s=1, capacity=2)
    for _ in range(3):
        outbox.put(FINAL)
    with pytest.raises(OutboxFullError):
        await outbox.take()
    waiting = Outbox(max_lag_s=1)
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
    """An empty outbox waits for the next packet; cancelled, nothing was taken."""
    outbox = Outbox(max_lag_s=1)
    with trio.move_on_after(1) as scope:
        await outbox.take()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.take)
        await trio.testing.wait_all_tasks_blocked()
        outbox.put(LOW)
    outbox.put(LOW)
    with trio.testing.assert_checkpoints():
        await outbox.take()


KINDS = {"low": LOW, "partial": PARTIAL, "audio": audio(), "final": FINAL, "control": CONTROL}


@given(st.lists(st.sampled_from([*KINDS, "take"]), max_size=40), st.integers(1, 5))
def test_the_counters_always_add_up(ops, capacity):
    """`sent = taken + leaked + depth`, the bound holds; what must not leak is taken, held or failed for."""

    async def check():
        outbox = Outbox(max_lag_s=1, capacity=capacity)
        kept = lost = 0
        for op in ops:
            s = outbox.statistics()
            try:
                if op != "take":
                    outbox.put(KINDS[op])
                    kept += KINDS[op].priority == Priority.HIGH
                elif s.depth:
                    lost += (await outbox.take()).said.priority == Priority.HIGH
            except OutboxFullError:
                return
            s = outbox.statistics()
            assert s.sent == s.taken + s.leaked + s.depth
            assert s.leaked == sum(s.left_out.values())
            assert s.depth <= s.peak <= capacity
        with trio.move_on_after(0):
            rest = await everything(outbox) if outbox.statistics().depth else []
            assert kept - lost == sum(said.priority == Priority.HIGH for said in rest)

    trio.run(check)
