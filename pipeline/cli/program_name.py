"""A command's usage names it the way the user called it."""

import sys
from pathlib import Path

from pipeline.install.paths import NAME


def is_installed_command() -> bool:
    """Whether the installed script started this process; one option of Python's may precede it."""
    return any(Path(word).name == NAME for word in sys.orig_argv[1:3])


def is_entry_point() -> bool:
    """Whether `python -m pipeline.run`, the one command with a module name of its own, is running."""
    return "pipeline.run" in sys.orig_argv[1:4]


def program(command: str) -> str:
    """How to call `command` again."""
    if is_installed_command():
        return f"{NAME} {command}"
    return "python -m pipeline.run" if is_entry_point() else f"python -m pipeline {command}"
