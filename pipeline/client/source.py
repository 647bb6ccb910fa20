"""What is said, and when it was: frames with the instant their last sample was captured.

A source of speech is an asynchronous generator of `Captured`; a recording is one too, once
it is `paced`.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import trio

from pipeline.audio.framing import Framer
from pipeline.audio.pacing import Pace
from pipeline.values import Pcm


@dataclass(frozen=True, slots=True)
class Captured:
    """80 ms of microphone, `pcm [1920]`, whose last sample was captured at `at_ns` of `now_ns`'s clock."""

    pcm: Pcm
    at_ns: int


Speech = AsyncGenerator[Captured, None]


def now_ns() -> int:
    """Trio's clock, which never steps, in nanoseconds."""
    return round(trio.current_time() * 1e9)


async def paced(pcm: Pcm) -> Speech:
    """Play `pcm [S]` as a microphone would deliver it: a frame each 80 ms, the last padded with silence."""
    framer = Framer()
    pace = Pace(now_ns())
    for index, frame in enumerate(np.concatenate((framer.push(pcm), framer.flush()))):
        due_ns = pace.due_ns(index)
        await trio.sleep_until(due_ns / 1e9)
        yield Captured(frame, due_ns)
