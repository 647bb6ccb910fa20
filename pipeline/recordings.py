"""A recorded session, read again: frame by frame what its models were given, and when its sampling changed.

Written by `actors.sessions.recorder`. What belongs here: reading, and saying what is wrong with a bundle.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import ConfigError
from pipeline.units import FRAME_SAMPLES
from pipeline.values import Pcm, SamplingParams

FORMAT = 1
Stop = Literal["encoder", "stepper"]  # a frame that was left out before one of them


@dataclass(frozen=True)
class Replay:
    """`frames [T, 1920]`; by frame number, the samplings that hold from there on, and who never got it."""

    model: str
    digest: str
    sampling: SamplingParams
    changes: dict[int, list[SamplingParams]]
    stopped: dict[int, Stop]
    frames: Pcm
    complete: bool

    def __iter__(self) -> Iterator[tuple[list[SamplingParams], Pcm, Stop | None]]:
        for index, pcm in enumerate(self.frames):
            yield self.changes.get(index, []), pcm, self.stopped.get(index)

    @cached_property
    def left_out(self) -> int:
        """Frames that never reached the language model."""
        return len(self.stopped)


def read_replay(folder: Path) -> Replay:
    """Read a bundle; of one that broke off, what there is.

    Raises:
        ConfigError: there is none, or it is none of ours.
    """
    try:
        lines = (folder / "session.jsonl").read_text(encoding="utf-8").splitlines()
        audio = np.fromfile(folder / "audio.f32", "<f4")
        notes: list[dict[str, Any]] = [json.loads(line) for line in lines]
        first = {note["type"]: note for note in reversed(notes)}
        began, ended = first["began"], first.get("ended", {})
        if began["format"] != FORMAT:
            raise ConfigError("--replay", f"{folder} has format {began['format']}, this reads {FORMAT}")
        changes: dict[int, list[SamplingParams]] = {}
        for note in notes:
            if note["type"] == "configured":
                changes.setdefault(note["frame"], []).append(SamplingParams(**note["sampling"]))
        return Replay(
            model=began["model"],
            digest=first["weights"]["digest"],
            sampling=SamplingParams(**began["sampling"]),
            changes=changes,
            stopped={note["frame"]: note["before"] for note in notes if note["type"] == "dropped"},
            frames=audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES),
            complete=ended.get("complete", False),
        )
    except OSError as error:
        raise ConfigError("--replay", f"{folder} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("--replay", f"{folder} is not a recorded session ({error})") from None
