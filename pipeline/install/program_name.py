"""The program name for usage texts: the command line the user typed, ready to be typed again."""

import os
import sys
from pathlib import Path
from typing import Final

from pipeline.install.paths import NAME

STARTED_BY: Final = "PACKET_VOICE_STARTED_BY"  # set by the Makefile


def is_started_by_make() -> bool:
    """Whether `make run` started this process."""
    return os.environ.get(STARTED_BY) == "make"


def is_installed_command() -> bool:
    """Whether the `packet-voice` script started this process; one interpreter option may precede it."""
    return any(Path(word).name == NAME for word in sys.orig_argv[1:3])


def called_as_pipeline_run() -> bool:
    """Whether this process was started as `python -m pipeline.run`."""
    return "pipeline.run" in sys.orig_argv[1:4]


def program(command: str) -> str:
    """The command line that runs `command`, without its arguments."""
    if is_installed_command():
        return f"{NAME} {command}"
    return "python -m pipeline.run" if called_as_pipeline_run() else f"python -m pipeline {command}"
