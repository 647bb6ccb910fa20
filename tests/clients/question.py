"""The question of these examples, in place of a microphone: 80 ms at a time, in real time."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 24_000
FRAME_SAMPLES = 1920
QUESTION = Path(__file__).parent.parent / "data/question.wav"


def server() -> str:
    """Host and port of the server, from the command line."""
    return sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8788"


async def microphone() -> AsyncIterator[bytes]:
    """Frames of PCM16: the question, the time of its answer, and two seconds more."""
    pcm, rate_hz = soundfile.read(QUESTION, dtype="int16")
    assert rate_hz == RATE_HZ
    for begin in range(0, len(pcm) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        yield pcm[begin : begin + FRAME_SAMPLES].tobytes()
        await asyncio.sleep(FRAME_SAMPLES / RATE_HZ)
    for _ in range(25):
        yield bytes(2 * FRAME_SAMPLES)
        await asyncio.sleep(FRAME_SAMPLES / RATE_HZ)


def report(text: str, sound: bytes) -> None:
    """Print what was heard, and how loud."""
    peak = int(np.abs(np.frombuffer(sound, "<i2").astype(np.int32)).max(initial=0))
    print(f"answer: {' '.join(text.split())}")
    print(f"sound: {len(sound) / 2 / RATE_HZ:.2f} s, peak {peak}")
