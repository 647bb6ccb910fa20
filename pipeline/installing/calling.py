"""A command shows its user the name that they called it by.

`packet-voice run` where the installed command, or `python -m pipeline`, chose it; from a checkout
`python -m pipeline.run`.
"""

import sys
from itertools import pairwise
from pathlib import Path

from pipeline.installing.places import NAME


def is_installed_command() -> bool:
    """Whether `pipeline.main` chose the command: the script of that name, or `python -m pipeline`."""
    typed = sys.orig_argv[1:4]  # one option of Python's may stand before it
    return any(Path(word).name == NAME for word in typed[:2]) or ("-m", "pipeline") in pairwise(typed)


def program(command: str) -> str:
    """How to call `command` again."""
    return f"{NAME} {command}" if is_installed_command() else f"python -m pipeline.{command}"
