"""Audio sources: frames with the instant at which their last sample was captured.

An `AudioSource` is an asynchronous generator of `CapturedFrame`. `paced` makes one of a recording;
`audio_device.Microphone` is a live one.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import trio

from pipeline.audio.framing import Framer
from pipeline.audio.pacing import Pace
from pipeline.values import Pcm


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """80 ms of audio, `pcm [1920]`, whose last sample was captured at `at_ns` by the clock of `now_ns`."""

    pcm: Pcm
    at_ns: int


AudioSource = AsyncGenerator[CapturedFrame, None]


def now_ns() -> int:
    """The time in nanoseconds by Trio's clock, which is never set."""
    return round(trio.current_time() * 1e9)


async def paced(pcm: Pcm) -> AudioSource:
    """Deliver `pcm [S]` as a microphone would: a frame each 80 ms, the last padded with silence."""
    framer = Framer()
    pace = Pace(now_ns())
    for index, frame in enumerate(np.concatenate((framer.push(pcm), framer.flush()))):
        due_ns = pace.due_ns(index)
        await trio.sleep_until(due_ns / 1e9)
        yield CapturedFrame(frame, due_ns)
