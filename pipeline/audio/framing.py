"""Cut samples into frames: 1920 samples, 80 ms, never fewer and never more.

Two ways in: a packet's payload, which is already whole frames or is refused, and a
microphone or file, which comes in pieces of any length. What belongs here: the shape of
audio. What does not: sample rates (`resampling`), time (`pacing`), files (`wav`).
"""

from typing import Final, Literal

import numpy as np

from pipeline.units import BURST_FRAMES, FRAME_SAMPLES
from pipeline.values import Pcm

RefusalReason = Literal["empty", "ragged", "too_long", "not_finite"]

_SAMPLE: Final = np.dtype("<f4")


class AudioRefusedError(Exception):
    """One packet of audio cannot be used; the session it belongs to goes on.

    `reason` is `empty`, `ragged` (not whole frames), `too_long` (more frames than a burst
    may hold) or `not_finite` (a sample is NaN or infinite).
    """

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason


def frames_of(payload: bytes | memoryview) -> Pcm:
    """Read a payload of little-endian float32 as `pcm [n, 1920]`, n from 1 to 8, all within ±1.

    The samples are a read-only view of the payload; only where one lies beyond ±1 are they
    copied, and clipped.

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
    peak = np.abs(pcm).max()  # NaN wins every comparison NumPy's max makes
    if not np.isfinite(peak):
        raise AudioRefusedError("not_finite", "the audio packet holds samples that are NaN or infinite")
    return pcm if peak <= 1 else pcm.clip(-1, 1)


def payload_of(pcm: Pcm) -> bytes:
    """Spell `pcm`, any whole frames, as a packet carries it; `frames_of` is its inverse."""
    return pcm.astype(_SAMPLE, copy=False).tobytes()


class Framer:
    """Samples in pieces of any length become frames; nothing is lost, added or reordered.

    Frames own their samples, so the caller may reuse its buffer at once.
    """

    def __init__(self) -> None:
        self._rest: Pcm = np.empty(0, np.float32)

    @property
    def pending_samples(self) -> int:
        """Samples kept for the next frame, 0 to 1919."""
        return len(self._rest)

    def push(self, samples: Pcm) -> Pcm:
        """Take `samples [S]`; give the frames `[n, 1920]` they complete, n often 0."""
        held = np.concatenate((self._rest, samples))
        whole = len(held) - len(held) % FRAME_SAMPLES
        self._rest = held[whole:].copy()
        return held[:whole].reshape(-1, FRAME_SAMPLES)

    def flush(self) -> Pcm:
        """End the stream: the samples still held, padded with silence, as `[1, 1920]`, or `[0, 1920]`."""
        padding = -len(self._rest) % FRAME_SAMPLES
        return self.push(np.zeros(padding, np.float32))
