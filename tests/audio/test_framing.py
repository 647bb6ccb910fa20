import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.fade import FADE_MS, fade_in
from pipeline.audio.framing import AudioRefusedError, Framer, frames_of, payload_of
from pipeline.units import FRAME_SAMPLES


def ramp(samples: int) -> np.ndarray:
    """Samples that are all different, so that any loss, repeat or swap shows."""
    return (np.arange(samples) / max(samples, 1)).astype(np.float32)


@pytest.mark.parametrize("frames", range(1, 9))
def test_one_to_eight_whole_frames_are_read_in_order(frames):
    """A payload of n frames is `[n, 1920]`, sample for sample, and spelling it gives the payload back."""
    payload = struct.pack(f"<{frames * FRAME_SAMPLES}f", *ramp(frames * FRAME_SAMPLES))
    pcm = frames_of(payload)
    assert pcm.shape == (frames, FRAME_SAMPLES)
    assert pcm.dtype == np.float32
    assert np.array_equal(pcm.ravel(), ramp(frames * FRAME_SAMPLES))
    assert payload_of(pcm) == payload


def test_samples_within_one_are_not_copied():
    """Frames of good audio are a read-only view of the packet, wherever in it they begin."""
    message = bytes(17) + payload_of(ramp(FRAME_SAMPLES))
    pcm = frames_of(memoryview(message)[17:])
    assert np.shares_memory(pcm, np.frombuffer(message, np.uint8))
    assert not pcm.flags.writeable
    assert np.array_equal(pcm[0], ramp(FRAME_SAMPLES))


def test_samples_beyond_one_are_clipped():
    """Only what lies beyond ±1 changes, to ±1, and the packet itself never does."""
    loud = ramp(FRAME_SAMPLES)
    loud[[3, 700, 1919]] = [1.5, -3e38, 1.0000001]
    payload = payload_of(loud)
    pcm = frames_of(payload)[0]
    assert pcm[[3, 700, 1919]].tolist() == [1.0, -1.0, 1.0]
    untouched = np.delete(np.arange(FRAME_SAMPLES), [3, 700, 1919])
    assert np.array_equal(pcm[untouched], loud[untouched])
    assert payload == payload_of(loud)


def poisoned(value: float, at: int) -> bytes:
    pcm = ramp(2 * FRAME_SAMPLES)
    pcm[at] = value
    return payload_of(pcm)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (bytes(1), "ragged"),
        (bytes(4), "ragged"),
        (bytes(4 * FRAME_SAMPLES - 1), "ragged"),
        (bytes(4 * FRAME_SAMPLES + 1), "ragged"),
        (bytes(4 * FRAME_SAMPLES + 4), "ragged"),
        (bytes(4 * FRAME_SAMPLES * 9), "too_long"),
        (poisoned(np.nan, 0), "not_finite"),
        (poisoned(np.nan, 2 * FRAME_SAMPLES - 1), "not_finite"),
        (poisoned(np.inf, 1), "not_finite"),
        (poisoned(-np.inf, FRAME_SAMPLES), "not_finite"),
    ],
)
def test_what_is_not_whole_finite_frames_is_refused(payload, reason):
    """Each kind of unusable audio is refused under its own name."""
    with pytest.raises(AudioRefusedError) as refused:
        frames_of(payload)
    assert refused.value.reason == reason


@given(st.binary(max_size=4 * FRAME_SAMPLES * 2))
def test_any_payload_is_frames_or_refused(payload):
    """Whatever the bytes, the answer is frames within ±1 or `AudioRefusedError`, nothing else."""
    try:
        pcm = frames_of(payload)
    except AudioRefusedError:
        return
    assert pcm.shape[1:] == (FRAME_SAMPLES,)
    assert np.abs(pcm).max() <= 1


@given(st.lists(st.integers(0, 5000), max_size=8))
def test_a_framer_keeps_every_sample_under_any_chunking(lengths):
    """Pieces of any length become whole frames that concatenate to the pieces, then silence."""
    whole = ramp(sum(lengths))
    framer = Framer()
    frames, start = [], 0
    for length in lengths:
        buffer = whole[start : start + length].copy()
        frames.append(framer.push(buffer))
        buffer[:] = np.nan  # frames do not alias what was pushed
        start += length
        assert framer.pending_samples == start % FRAME_SAMPLES
        assert sum(map(len, frames)) == start // FRAME_SAMPLES
    frames.append(framer.flush())
    assert framer.pending_samples == 0
    assert all(each.shape[1:] == (FRAME_SAMPLES,) and each.dtype == np.float32 for each in frames)
    joined = np.concatenate(frames).ravel()
    assert len(joined) == -(-len(whole) // FRAME_SAMPLES) * FRAME_SAMPLES
    assert np.array_equal(joined[: len(whole)], whole)
    assert not joined[len(whole) :].any()


def test_a_frame_after_a_gap_rises_from_silence():
    """The first 5 ms rise evenly from nothing to all, the rest is untouched, the original too."""
    ones = np.ones(FRAME_SAMPLES, np.float32)
    faded = fade_in(ones)
    edge = 24 * FADE_MS
    assert ones.all()
    assert 0 < faded[0] < 1e-3
    assert 1 - 1e-3 < faded[edge - 1] < 1
    assert (np.diff(faded[:edge]) > 0).all()
    assert np.allclose(faded[:edge] + faded[edge - 1 :: -1], 1, atol=1e-6)
    assert (faded[edge:] == 1).all()
    assert fade_in(ones[:50]).tolist() == faded[:50].tolist()
