"""On macOS launchd runs the service as an agent of the user's, and a file keeps what it says.

launchd knows no exit codes that a restart cannot cure: it starts what failed again and again, half
a minute apart, and so a mended configuration is picked up by itself. Source: launchd.plist(5),
launchctl(1).
"""

import os
import plistlib
import re
import time
from pathlib import Path
from typing import Final

from pipeline.errors import ServiceError
from pipeline.install import paths
from pipeline.install.service_file import Service, put
from pipeline.install.subprocess_call import ask, show, tell

_LABEL: Final = f"local.{paths.NAME}"
_STOP_S: Final = 60
_POLL_S: Final = 0.2
_TOLD: Final = re.compile(r"\s(state|pid|runs|last exit code) = ")


def spell(service: Service, log: Path) -> bytes:
    """The property list."""
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
            "ProcessType": "Interactive",  # others are slowed down in the background; this one keeps time
            "SoftResourceLimits": {"NumberOfFiles": 4096},
            "Umask": 0o077,
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        }
    )


class Launchd:
    """What launchd is asked; each raises `ServiceError` where it does not do it."""

    @property
    def file(self) -> Path:
        """The property list."""
        return paths.launchd_agent()

    @property
    def note(self) -> str:
        """What the user should know of it."""
        return f"It runs while you are logged in. Its log is {paths.log_file()}, which nobody shortens."

    def write(self, service: Service) -> None:
        """Put the property list where launchd looks for it."""
        log = paths.log_file()
        log.parent.mkdir(parents=True, exist_ok=True)
        put(self.file, spell(service, log))

    def enable(self) -> None:
        """Run it now, by the list as it is now, and after every login."""
        tell("launchctl", "enable", self._target)
        self.restart()

    def start(self) -> None:
        """Run it, where it does not."""
        if self._is_loaded():
            tell("launchctl", "kickstart", self._target)
        else:
            tell("launchctl", "bootstrap", self._domain, str(self.file))

    def stop(self) -> None:
        """Have it finish its sessions and end, until the next login."""
        if not self._is_loaded():
            return
        tell("launchctl", "bootout", self._target)
        # It answers before the service has ended, and does not load what has not.
        deadline_s = time.monotonic() + _STOP_S
        while self._is_loaded():
            if time.monotonic() > deadline_s:
                raise ServiceError(f"the service has not ended for {_STOP_S} s")
            time.sleep(_POLL_S)

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def disable(self) -> None:
        """Have it end for good."""
        self.stop()

    def forget(self) -> None:
        """Remove the property list and the log."""
        self.file.unlink(missing_ok=True)
        log = paths.log_file()
        log.unlink(missing_ok=True)
        if log.parent.is_dir() and not any(log.parent.iterdir()):
            log.parent.rmdir()

    def status(self) -> tuple[bool, str]:
        """Whether it runs, and what launchd says of it."""
        answer = ask("launchctl", "print", self._target)
        if answer.code:
            return False, f"{_LABEL} is not loaded\n"
        told = [line.strip() for line in answer.text.splitlines() if _TOLD.match(line)]
        return "state = running" in told, "".join(f"{line}\n" for line in told)

    def show_logs(self, lines: int, *, follow: bool) -> int:
        """Print what it said last, and go on if asked to."""
        following = ("-F",) if follow else ()
        return show(("tail", "-n", str(lines), *following, str(paths.log_file())))

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{_LABEL}"

    def _is_loaded(self) -> bool:
        return ask("launchctl", "print", self._target).code == 0
