"""Samples into frames of 1920 samples, which are 80 ms.

`frames_of` reads a packet's payload, which has to be whole frames. `Framer` takes pieces of any
length, from a microphone or a file. What belongs here: the shape of audio. What does not: sample
rates (`resampling`), time (`pacing`), files (`wav`).
"""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from pipeline.units import BURST_FRAMES, FRAME_SAMPLES
from pipeline.values import Pcm

# NumPy lets go of the interpreter for arrays of more than 500 elements, and a thread that computes a model
# may keep it for milliseconds then. For 20 µs of arithmetic on the event loop that is a bad bargain.
BLOCK_SAMPLES: Final = 480

OVER_FULL_SCALE: Final = 4.0  # 12 dB: no recording, but samples of another unit

RefusalReason = Literal["empty", "ragged", "too_long", "not_finite"]

_SAMPLE: Final = np.dtype("<f4")


class AudioRefusedError(Exception):
    """One packet of audio is unusable; its session continues.

    `reason` is `empty`, `ragged` (not whole frames), `too_long` (more frames than a burst
    may hold) or `not_finite` (a sample is NaN or infinite).
    """

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason


def frames_of(payload: bytes | memoryview, on_over_scale: Callable[[float], None] = lambda _: None) -> Pcm:
    """A payload of little-endian float32 as `pcm [n, 1920]`, n from 1 to 8, all within ±1.

    The samples are a read-only view of the payload; only where one lies beyond ±1 are they
    copied, and clipped; `on_over_scale` gets a peak beyond `OVER_FULL_SCALE`, of which little is left.

    Raises:
        AudioRefusedError: the payload is not 1 to 8 whole frames of finite samples.
    """
    samples, rest = divmod(len(payload), _SAMPLE.itemsize)
    frames, odd = divmod(samples, FRAME_SAMPLES)
    if not payload:
        raise AudioRefusedError("empty", "the audio packet holds no samples")
    if rest or odd:
        raise AudioRefusedError(
            "ragged",
            f"{len(payload)} bytes of audio are not whole frames of {FRAME_SAMPLES} float32 samples",
        )
    if frames > BURST_FRAMES:
        raise AudioRefusedError(
            "too_long", f"{frames} frames in one packet are more than the {BURST_FRAMES} a burst may hold"
        )
    pcm = np.frombuffer(payload, _SAMPLE).astype(np.float32, copy=False).reshape(frames, FRAME_SAMPLES)
    peak = _peak(pcm)
    if not np.isfinite(peak):
        raise AudioRefusedError("not_finite", "the audio packet holds samples that are NaN or infinite")
    if peak > OVER_FULL_SCALE:
        on_over_scale(float(peak))
    return pcm if peak <= 1 else pcm.clip(-1, 1)


def _peak(pcm: Pcm) -> float:
    """The largest absolute value; NaN if there is one, since it wins every comparison of NumPy's maximum."""
    samples = pcm.reshape(-1)
    peaks = [
        np.maximum.reduce(np.abs(samples[begin : begin + BLOCK_SAMPLES]))
        for begin in range(0, len(samples), BLOCK_SAMPLES)
    ]
    return float(np.maximum.reduce(peaks))


def payload_of(pcm: Pcm) -> bytes:
    """The payload of a packet that carries `pcm`, any whole frames; the inverse of `frames_of`."""
    return pcm.astype(_SAMPLE, copy=False).tobytes()


class Framer:
    """Makes frames of samples in pieces of any length; nothing is lost, added or reordered.

    Frames own their samples, so the caller may reuse its buffer at once.
    """

    def __init__(self) -> None:
        self._rest: Pcm = np.empty(0, np.float32)

    @property
    def pending_samples(self) -> int:
        """Samples that wait for the next frame, 0 to 1919."""
        return len(self._rest)

    def push(self, samples: Pcm) -> Pcm:
        """Append `samples [S]`; the frames `[n, 1920]` that are now complete, n often 0."""
        if not len(self._rest) and not len(samples) % FRAME_SAMPLES:
            return np.frombuffer(samples.tobytes(), np.float32).reshape(-1, FRAME_SAMPLES)
        joined = np.concatenate((self._rest, samples))
        whole = len(joined) - len(joined) % FRAME_SAMPLES
        self._rest = joined[whole:].copy()
        return joined[:whole].reshape(-1, FRAME_SAMPLES)

    def flush(self) -> Pcm:
        """End the stream: the remaining samples, padded with silence, as `[1, 1920]`, or `[0, 1920]`."""
        padding = -len(self._rest) % FRAME_SAMPLES
        return self.push(np.zeros(padding, np.float32))
