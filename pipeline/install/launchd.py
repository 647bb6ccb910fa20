"""The service on macOS: a launchd user agent that logs to a file.

launchd cannot treat some exit codes as final. It restarts a failed service every 30 seconds, so a corrected
configuration takes effect without a command. Source: launchd.plist(5), launchctl(1).
"""

import os
import plistlib
import re
import time
from pathlib import Path
from typing import Final

from pipeline.errors import ServiceError
from pipeline.install import paths
from pipeline.install.service_file import Service, write_private
from pipeline.install.subprocess_call import run, run_checked, run_in_foreground

_LABEL: Final = f"local.{paths.NAME}"
_STOP_S: Final = 60
_POLL_S: Final = 0.2
_STATUS_LINE: Final = re.compile(r"\s(state|pid|runs|last exit code) = ")


def render_plist(service: Service, log: Path) -> bytes:
    """The property list, as launchd reads it."""
    return plistlib.dumps(
        {
            "Label": _LABEL,
            "ProgramArguments": list(service.command),
            "WorkingDirectory": str(service.folder),
            "EnvironmentVariables": service.environment,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 30,
            "ExitTimeOut": _STOP_S,
            "ProcessType": "Interactive",  # other types are throttled, and audio is real time
            "SoftResourceLimits": {"NumberOfFiles": 4096},
            "Umask": 0o077,
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        }
    )


class Launchd:
    """Controls the service through `launchctl`. Every method raises `ServiceError` on failure."""

    @property
    def file(self) -> Path:
        """The path of the property list."""
        return paths.launchd_agent()

    @property
    def hint(self) -> str:
        """Advice to print after the installation."""
        return f"It runs while you are logged in. Its log, {paths.log_file()}, is not rotated."

    def write(self, service: Service) -> None:
        """Write the property list to where launchd looks for it."""
        log = paths.log_file()
        log.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.file, render_plist(service, log))

    def enable(self) -> None:
        """Start the service now, with the current property list, and after every login."""
        run_checked("launchctl", "enable", self._target)
        self.restart()

    def start(self) -> None:
        """Start the service if it is not running."""
        if self._is_loaded():
            run_checked("launchctl", "kickstart", self._target)
        else:
            run_checked("launchctl", "bootstrap", self._domain, str(self.file))

    def stop(self) -> None:
        """Let the service finish its sessions and stop it until the next login."""
        if not self._is_loaded():
            return
        run_checked("launchctl", "bootout", self._target)
        # bootout returns before the service has exited, and bootstrap fails until it has.
        deadline_s = time.monotonic() + _STOP_S
        while self._is_loaded():
            if time.monotonic() > deadline_s:
                raise ServiceError(f"the service did not stop within {_STOP_S} s")
            time.sleep(_POLL_S)

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def disable(self) -> None:
        """Stop the service for good."""
        self.stop()

    def remove_files(self) -> None:
        """Remove the property list and the log."""
        self.file.unlink(missing_ok=True)
        log = paths.log_file()
        log.unlink(missing_ok=True)
        if log.parent.is_dir() and not any(log.parent.iterdir()):
            log.parent.rmdir()

    def status(self) -> tuple[bool, str]:
        """Whether the service is running, and launchd's description of it."""
        result = run("launchctl", "print", self._target)
        if result.exit_code:
            return False, f"{_LABEL} is not loaded\n"
        lines = [line.strip() for line in result.output.splitlines() if _STATUS_LINE.match(line)]
        return "state = running" in lines, "".join(f"{line}\n" for line in lines)

    def show_logs(self, lines: int, *, follow: bool) -> int:
        """Print the last lines of the log and, with `follow`, new ones as they come."""
        option = ("-F",) if follow else ()
        return run_in_foreground(("tail", "-n", str(lines), *option, str(paths.log_file())))

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{_LABEL}"

    def _is_loaded(self) -> bool:
        return run("launchctl", "print", self._target).exit_code == 0
