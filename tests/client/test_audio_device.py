"""The two handovers between the device's thread and Trio; the devices themselves are the driver's."""

import itertools
import sys
from contextlib import aclosing

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.audio_device import PIECES, Loudspeaker, Microphone, SoundcardError, open_soundcard
from pipeline.client.source import now_ns

RAMP = np.arange(1, 48_001, dtype=np.float32) / 48_000


async def test_what_the_device_hears_becomes_frames_with_their_capture_times():
    """Pieces from another thread come out as frames, in order, each ending where its time says."""
    microphone = Microphone(24_000)
    start_ns = now_ns()

    def device():
        buffer = np.empty(500, np.float32)  # which the device uses again
        for end in range(500, 24_001, 500):
            buffer[:] = RAMP[end - 500 : end]
            microphone.hear(buffer, start_ns + end * 1_000_000_000 // 24_000)

    frames = []
    async with aclosing(microphone.listen()) as source, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, device)
        while len(frames) < 12:
            captured = await anext(source)
            frames.append(captured.pcm)
            assert captured.at_ns - start_ns == pytest.approx(80_000_000 * len(frames), abs=100)
    assert np.array_equal(np.concatenate(frames), RAMP[: 12 * 1920])
    assert microphone.dropped_pieces == 0


async def test_time_never_goes_back_when_a_device_delivers_in_bunches():
    """Capture times increase even where pieces came late and all at once."""
    microphone = Microphone(24_000)
    async with aclosing(microphone.listen()) as source, trio.open_nursery() as nursery:
        times_ns = []

        async def listen():
            async for captured in source:
                times_ns.append(captured.at_ns)
                if len(times_ns) == 6:
                    break

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        for samples in (1919, 1921, 3000, 3000, 1680):
            microphone.hear(np.zeros(samples, np.float32), 1_000_000_000)
    assert all(a < b for a, b in itertools.pairwise(times_ns))


async def test_a_microphone_nobody_listens_to_keeps_the_newest_and_counts_the_rest():
    """The handover is bounded: the oldest is dropped, and what was said before listening is not sent."""
    microphone = Microphone(24_000)
    for number in range(PIECES + 3):
        microphone.hear(np.full(1920, number, np.float32), now_ns())
    assert microphone.dropped_pieces == 3
    async with aclosing(microphone.listen()) as source, trio.open_nursery() as nursery:
        first = []

        async def listen():
            first.append(await anext(source))

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        microphone.hear(np.full(1920, -1, np.float32), now_ns())
    assert (first[0].pcm == -1).all()


@given(st.lists(st.one_of(st.none(), st.integers(0, 4000)), max_size=24))
def test_a_loudspeaker_plays_what_it_is_given_in_order(steps):
    """Whatever the interleaving of frames in (None) and buffers out, nothing is lost, repeated or swapped."""
    loudspeaker = Loudspeaker(24_000, prebuffer_ms=100)
    given_frames, heard = 0, []
    for step in steps:
        if step is None:
            loudspeaker.play(RAMP[given_frames * 1920 : (given_frames + 1) * 1920])
            given_frames += 1
        else:
            out = np.full(step, np.nan, np.float32)
            loudspeaker.fill(out)
            heard.append(out)
    played = np.concatenate([np.empty(0, np.float32), *heard])
    played = played[played != 0]
    assert np.array_equal(played, RAMP[: len(played)])
    assert loudspeaker.dropped_samples == 0


def test_a_loudspeaker_starts_after_its_prebuffer_and_fills_up_anew_after_a_gap():
    """It is silent until more than the prebuffer is there, then plays to the end, which is a gap."""
    loudspeaker = Loudspeaker(24_000, prebuffer_ms=80)
    out = np.empty(1000, np.float32)
    for number in range(2):
        loudspeaker.play(RAMP[:1920])
        loudspeaker.fill(out)
        assert not out.any()
        loudspeaker.play(RAMP[:1920])
        for _ in range(4):
            loudspeaker.fill(out)
        assert out[: 3840 - 3000].all()
        assert not out[3840 - 3000 :].any()
        assert loudspeaker.gaps == number + 1


def test_a_loudspeaker_holds_two_seconds():
    """What a device does not play is dropped, oldest first, and counted."""
    loudspeaker = Loudspeaker(24_000)
    for number in range(30):
        loudspeaker.play(np.full(1920, 1 + number, np.float32))
    out = np.empty(48_000, np.float32)
    loudspeaker.fill(out)
    assert loudspeaker.dropped_samples == 5 * 1920
    assert out[0] == 6
    assert (np.diff(out[out != 0]) >= 0).all()


async def test_without_sounddevice_it_says_what_to_install(monkeypatch):
    """A missing optional package is one sentence with the remedy."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SoundcardError, match=r"pip install 'packet-voice\[mic\]'"), open_soundcard():
        pass
