"""The program name for usage texts: the command line the user typed, ready to be typed again."""

import contextlib
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


def installed_command() -> str:
    """The `packet-voice` script as it was typed: by its path where it need not be on the PATH."""
    script = next(word for word in sys.orig_argv[1:3] if Path(word).name == NAME)
    return script if not Path(script).is_absolute() and len(Path(script).parts) > 1 else NAME


def interpreter(*, is_public: bool = False) -> str:
    """The Python that runs this process, as it is found from the same folder.

    A bare `python` may be another one in the next terminal, unless it is the system's. `is_public`: without
    an absolute path.
    """
    typed = sys.orig_argv[0]
    if len(Path(typed).parts) > 1 and not Path(typed).is_absolute():
        return typed
    with contextlib.suppress(ValueError, OSError):
        return str(Path(sys.executable).relative_to(Path.cwd()))
    is_own = sys.prefix != sys.base_prefix or Path(typed).is_absolute()
    return sys.executable if is_own and not is_public else "python"


def called_as_pipeline_run() -> bool:
    """Whether this process was started as `python -m pipeline.run`."""
    return "pipeline.run" in sys.orig_argv[1:4]


def program(command: str) -> str:
    """The command line that runs `command`, without its arguments."""
    if is_installed_command():
        return f"{NAME} {command}"
    return "python -m pipeline.run" if called_as_pipeline_run() else f"python -m pipeline {command}"
