"""Recordings that tests make for themselves."""

from pathlib import Path

from pipeline.audio.wav import WavWriter
from pipeline.values import Pcm


def write_speech(path: str | Path, pcm: Pcm) -> None:
    """Write `pcm [S]` as a whole recording."""
    with WavWriter(path) as file:
        file.write(pcm)
