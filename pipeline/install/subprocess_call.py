"""Runs the commands of the service managers and reports failures with the command's own last line."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import NoServiceManagerError, ServiceError

_TIMEOUT_S: Final = 120.0  # longer than any service may take to stop


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code of a command, and its stdout and stderr together."""

    exit_code: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line of the output, which is usually the error message."""
        return next(iter(reversed(self.output.strip().splitlines())), f"exit code {self.exit_code}")


def run(*command: str) -> CommandResult:
    """Run a command and wait for it.

    Raises:
        ServiceError: the command does not exist or takes too long.
    """
    program = find_executable(command[0])
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
        raise ServiceError(f"{' '.join(command)} did not finish within {_TIMEOUT_S:g} s") from None
    return CommandResult(done.returncode, done.stdout)


def run_checked(*command: str) -> None:
    """Run a command that has to succeed.

    Raises:
        ServiceError: it failed; the message has the last line of its output.
    """
    result = run(*command)
    if result.exit_code:
        raise ServiceError(f"{' '.join(command)}: {result.last_line}")


def run_in_foreground(command: Sequence[str]) -> int:
    """Run a command on this terminal until it exits or the user interrupts it; its exit code."""
    program = find_executable(command[0])
    with subprocess.Popen([program, *command[1:]]) as running:  # noqa: S603 - the manager's own command
        try:
            return running.wait()
        except KeyboardInterrupt:  # the command receives the same signal
            return running.wait()


def find_executable(program: str) -> str:
    """The path of a program.

    Raises:
        NoServiceManagerError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise NoServiceManagerError(
            f"{program} was not found; user services are not supported on this system"
        )
    return found
