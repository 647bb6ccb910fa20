"""Recordings that tests make for themselves."""

from pathlib import Path

from pipeline.audio.sound_file import SoundWriter
from pipeline.values import Pcm


def write_speech(path: str | Path, pcm: Pcm) -> None:
    """Write `pcm [S]` as a whole recording."""
    with SoundWriter(path) as file:
        file.write(pcm)
        file.commit()
