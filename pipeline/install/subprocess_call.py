"""A service manager is asked by its own command, and what it does not do is told in its own words."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import ServiceError

_TIMEOUT_S: Final = 120.0  # longer than any stop is given


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended: its exit code, and all that it printed."""

    code: int
    text: str

    @property
    def last(self) -> str:
        """The last line, which says why."""
        return next(iter(reversed(self.text.strip().splitlines())), f"exit code {self.code}")


def ask(*command: str) -> Answer:
    """Run it to its end.

    Raises:
        ServiceError: there is no such command here, or it does not end.
    """
    program = find(command[0])
    try:
        done = subprocess.run(  # noqa: S603 - the manager's own command
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{' '.join(command)} has not ended for {_TIMEOUT_S:g} s") from None
    return Answer(done.returncode, done.stdout)


def tell(*command: str) -> None:
    """Have it do something.

    Raises:
        ServiceError: it did not, and why.
    """
    answer = ask(*command)
    if answer.code:
        raise ServiceError(f"{' '.join(command)}: {answer.last}")


def show(command: Sequence[str]) -> int:
    """Run it before the user's eyes, until it ends or they stop it; its exit code."""
    program = find(command[0])
    with subprocess.Popen([program, *command[1:]]) as running:  # noqa: S603 - the manager's own command
        try:
            return running.wait()
        except KeyboardInterrupt:  # it was interrupted by the same key
            return running.wait()


def find(program: str) -> str:
    """Where it is.

    Raises:
        ServiceError: nowhere.
    """
    found = shutil.which(program)
    if found is None:
        raise ServiceError(f"this system has no {program}, so it runs no services for users")
    return found
