"""Reads a recorded session: the frames that its models got, and the changes of its sampling.

Written by `actors.sessions.recorder`. What belongs here: reading a recording and reporting what is
wrong with it. Replaying it: `pipeline.cli.offline`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import ConfigError
from pipeline.system.inputs import parse_json, read_text
from pipeline.units import FRAME_SAMPLES
from pipeline.values import Pcm, Persona, SamplingParams

FORMATS = (1, 2)  # 2: with the voice and the role that the session began with
Stop = Literal["encoder", "stepper"]  # the stage before which a frame was dropped


@dataclass(frozen=True)
class Replay:
    """A recording: `frames [T, 1920]` and, by frame, changes of sampling and the stage it never reached.

    `prompt_key`: of the prompt that `persona` was, None for none.
    """

    model: str
    digest: str
    sampling: SamplingParams
    changes: dict[int, list[SamplingParams]]
    stopped: dict[int, Stop]
    frames: Pcm
    complete: bool
    persona: Persona
    prompt_key: str | None

    def __iter__(self) -> Iterator[tuple[list[SamplingParams], Pcm, Stop | None]]:
        for index, pcm in enumerate(self.frames):
            yield self.changes.get(index, []), pcm, self.stopped.get(index)

    @cached_property
    def dropped(self) -> int:
        """Number of frames that never reached the language model."""
        return len(self.stopped)


def read_replay(folder: Path) -> Replay:
    """Read a recording; of an incomplete one, what there is.

    Raises:
        ConfigError: it cannot be read, or is not a recording of this program.
    """
    try:
        lines = read_text(folder / "session.jsonl").splitlines()
        audio = np.fromfile(folder / "audio.f32", "<f4")
        records: list[dict[str, Any]] = [parse_json(line) for line in lines]
        first = {record["type"]: record for record in reversed(records)}
        began, ended = first["began"], first.get("ended", {})
        if began["format"] not in FORMATS:
            raise ConfigError("--replay", f"{folder} has format {began['format']}, this reads {FORMATS[-1]}")
        prompted = ([record for record in records if record["type"] == "prompted"] or [{}])[-1]
        changes: dict[int, list[SamplingParams]] = {}
        for record in records:
            if record["type"] == "configured":
                changes.setdefault(record["frame"], []).append(SamplingParams(**record["sampling"]))
        return Replay(
            model=began["model"],
            digest=first["weights"]["digest"],
            sampling=SamplingParams(**began["sampling"]),
            changes=changes,
            stopped={record["frame"]: record["before"] for record in records if record["type"] == "dropped"},
            frames=audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES),
            complete=ended.get("complete", False),
            persona=Persona(prompted.get("voice"), prompted.get("role")),
            prompt_key=prompted.get("key"),
        )
    except OSError as error:
        raise ConfigError("--replay", f"{folder} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("--replay", f"{folder} is not a recorded session ({error})") from None
