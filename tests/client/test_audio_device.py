"""The buffers between the device's thread and Trio; the devices themselves are not tested."""

import itertools
import sys
from contextlib import aclosing

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.audio_device import (
    PIECES_MAX,
    SILENT_FRAMES,
    AudioDeviceError,
    Loudspeaker,
    Microphone,
    open_audio_device,
)
from pipeline.client.source import now_ns

RAMP = np.arange(1, 48_001, dtype=np.float32) / 48_000


async def test_captured_samples_become_frames_with_their_capture_times():
    """Pieces from another thread come out as frames, in order, each with the time of its last sample."""
    microphone = Microphone(24_000)
    start_ns = now_ns()

    def device():
        buffer = np.empty(500, np.float32)  # which the device reuses
        for end in range(500, 24_001, 500):
            buffer[:] = RAMP[end - 500 : end]
            microphone.push(buffer, start_ns + end * 1_000_000_000 // 24_000)

    frames = []
    async with aclosing(microphone.frames()) as source, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, device)
        while len(frames) < 12:
            captured = await anext(source)
            frames.append(captured.pcm)
            assert captured.at_ns - start_ns == pytest.approx(80_000_000 * len(frames), abs=100)
    assert np.array_equal(np.concatenate(frames), RAMP[: 12 * 1920])
    assert microphone.dropped_pieces == 0


async def test_capture_times_increase_when_a_device_delivers_in_bunches():
    """Capture times increase even where pieces arrive late and all at once."""
    microphone = Microphone(24_000)
    async with aclosing(microphone.frames()) as source, trio.open_nursery() as nursery:
        times_ns = []

        async def read():
            async for captured in source:
                times_ns.append(captured.at_ns)
                if len(times_ns) == 6:
                    break

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for samples in (1919, 1921, 3000, 3000, 1680):
            microphone.push(np.zeros(samples, np.float32), 1_000_000_000)
    assert all(a < b for a, b in itertools.pairwise(times_ns))


async def test_an_unread_microphone_keeps_the_newest_pieces_and_counts_the_rest():
    """The buffer is bounded: the oldest is dropped, and audio from before reading is not sent."""
    microphone = Microphone(24_000)
    for number in range(PIECES_MAX + 3):
        microphone.push(np.full(1920, number, np.float32), now_ns())
    assert microphone.dropped_pieces == 3
    async with aclosing(microphone.frames()) as source, trio.open_nursery() as nursery:
        first = []

        async def read():
            first.append(await anext(source))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        microphone.push(np.full(1920, -1, np.float32), now_ns())
    assert (first[0].pcm == -1).all()


@given(st.lists(st.one_of(st.none(), st.integers(0, 4000)), max_size=24))
def test_a_loudspeaker_plays_everything_in_order(steps):
    """Whatever the interleaving of frames in (None) and buffers out, nothing is lost, repeated or swapped."""
    loudspeaker = Loudspeaker(24_000, prebuffer_ms=100)
    given_frames, outputs = 0, []
    for step in steps:
        if step is None:
            loudspeaker.play(RAMP[given_frames * 1920 : (given_frames + 1) * 1920])
            given_frames += 1
        else:
            out = np.full(step, np.nan, np.float32)
            loudspeaker.fill(out)
            outputs.append(out)
    played = np.concatenate([np.empty(0, np.float32), *outputs])
    played = played[played != 0]
    assert np.array_equal(played, RAMP[: len(played)])
    assert loudspeaker.dropped_samples == 0


def test_a_loudspeaker_starts_after_its_prebuffer_and_buffers_again_after_a_gap():
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


def test_a_loudspeaker_buffers_two_seconds():
    """Samples that the device does not play are dropped, oldest first, and counted."""
    loudspeaker = Loudspeaker(24_000)
    for number in range(30):
        loudspeaker.play(np.full(1920, 1 + number, np.float32))
    out = np.empty(48_000, np.float32)
    loudspeaker.fill(out)
    assert loudspeaker.dropped_samples == 5 * 1920
    assert out[0] == 6
    assert (np.diff(out[out != 0]) >= 0).all()


async def test_without_sounddevice_the_error_says_what_to_install(monkeypatch):
    """A missing optional package is one sentence with the remedy."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioDeviceError, match="-m pip install sounddevice"), open_audio_device():
        pass


async def test_a_microphone_without_any_sound_is_told_once():
    """No microphone delivers pure zeros on its own: it is muted, or the program may not use it."""
    notices = []
    microphone = Microphone(24_000, notices.append)
    async with aclosing(microphone.frames()) as source, trio.open_nursery() as nursery:

        async def read():
            async for _ in source:
                pass

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(SILENT_FRAMES - 1):
            microphone.push(np.zeros(1920, np.float32), now_ns())
        await trio.testing.wait_all_tasks_blocked()
        assert notices == []
        microphone.push(np.zeros(1920, np.float32), now_ns())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [notice.startswith("the microphone delivers only silence") for notice in notices] == [True]
