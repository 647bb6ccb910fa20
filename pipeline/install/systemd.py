"""On Linux the user's own systemd runs the service, and the journal keeps what it says.

The unit shuts the server in by filters on system calls alone. What needs namespaces
(`ProtectSystem=`, `PrivateTmp=`, …) is left out: in a user's manager it needs unprivileged user
namespaces, and where a system forbids them the service does not start at all. So is
`MemoryDenyWriteExecute=`: MKL and CUDA make code at run time. Source: systemd.exec(5).
"""

import re
from pathlib import Path
from typing import Final

from pipeline.errors import ServiceError
from pipeline.install import paths
from pipeline.install.service_file import Service, put
from pipeline.install.subprocess_call import ask, show, tell

_UNIT: Final = f"{paths.NAME}.service"
_CONTROL: Final = ("systemctl", "--user")

_PLAIN: Final = re.compile(r"[\w/.:=@,+-]+", re.ASCII)

_TEMPLATE: Final = """\
# Made by `packet-voice service install`, which makes it anew.
[Unit]
Description=packet-voice, a speech-to-speech server
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={folder}
{environment}Restart=on-failure
RestartSec=2
# Configuration, weights, a taken port: the next start would end the same way.
RestartPreventExitStatus=2 3 4
# The server gives its sessions drain_s to finish.
TimeoutStopSec=60
KillMode=mixed
SyslogIdentifier={name}
LimitNOFILE=4096
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


def spell(service: Service) -> str:
    """The unit file."""
    variables = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in service.environment.items()]
    return _TEMPLATE.format(
        command=" ".join(_quoted(part).replace("$", "$$") for part in service.command),
        folder=str(service.folder).replace("%", "%%"),
        environment="".join(variables),
        name=paths.NAME,
    )


def _quoted(text: str) -> str:
    """One word, whatever is in it. Source: systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers"."""
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


class Systemd:
    """What the user's systemd is asked; each raises `ServiceError` where it does not do it."""

    @property
    def file(self) -> Path:
        """The unit."""
        return paths.systemd_unit()

    @property
    def note(self) -> str:
        """What the user should know of it."""
        return "It runs while you are logged in. To have it run from boot on: loginctl enable-linger"

    def write(self, service: Service) -> None:
        """Put the unit where systemd looks for it; whether systemd is there does not matter yet."""
        put(self.file, spell(service).encode())

    def enable(self) -> None:
        """Run it now, by the unit as it is now, and after every login."""
        self._require()
        tell(*_CONTROL, "daemon-reload")
        tell(*_CONTROL, "enable", "--quiet", _UNIT)
        tell(*_CONTROL, "restart", _UNIT)

    def start(self) -> None:
        """Run it, where it does not."""
        self._require()
        ask(*_CONTROL, "reset-failed", _UNIT)  # or the sixth start within five minutes is refused
        tell(*_CONTROL, "start", _UNIT)

    def stop(self) -> None:
        """Have it finish its sessions and end, until the next login."""
        self._require()
        tell(*_CONTROL, "stop", _UNIT)

    def restart(self) -> None:
        """Stop, then start."""
        self._require()
        tell(*_CONTROL, "restart", _UNIT)

    def disable(self) -> None:
        """Have it end for good."""
        self._require()
        tell(*_CONTROL, "disable", "--now", "--quiet", _UNIT)

    def forget(self) -> None:
        """Remove the unit, and what systemd remembers of it, where it answers."""
        self.file.unlink(missing_ok=True)
        wanted = self.file.parent / "default.target.wants" / _UNIT  # where nobody was there to disable it
        wanted.unlink(missing_ok=True)
        ask(*_CONTROL, "daemon-reload")
        ask(*_CONTROL, "reset-failed", _UNIT)

    def status(self) -> tuple[bool, str]:
        """Whether it runs, and what systemd says of it."""
        self._require()
        text = ask(*_CONTROL, "status", "--no-pager", "--full", "--lines=5", _UNIT).text
        return ask(*_CONTROL, "is-active", "--quiet", _UNIT).code == 0, text

    def show_logs(self, lines: int, *, follow: bool) -> int:
        """Print what it said last, and go on if asked to."""
        following = ("--follow",) if follow else ()
        return show(("journalctl", "--user-unit", _UNIT, f"--lines={lines}", "--no-pager", *following))

    def _require(self) -> None:
        """A user's systemd is there only within a session that it was told of, or with lingering."""
        answer = ask(*_CONTROL, "show", "--property=Version")
        if answer.code:
            raise ServiceError(
                f"this user's systemd does not answer, as in a container or through su ({answer.last})"
            )
