"""The command lines that lead from how this server was started to how a phone reaches it.

Pages, log and terminal name them, ready to be typed. They repeat `--config` and `--set`, but no secret.

Neighbours: `program_name` has the program; `pipeline.lan` makes the link. What does not belong here: what the
options mean.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.install import paths
from pipeline.install.program_name import (
    called_as_pipeline_run,
    installed_command,
    interpreter,
    is_installed_command,
    is_started_by_make,
)

LAN: Final = "--lan"
_DEFAULT_CONFIG: Final = "configs/tiny"  # of the Makefile
_SECRET: Final = ("server.token=", "proxy.token=")
_REPLACED: Final = ("server.host=", "server.tls=")  # by --lan


@dataclass(frozen=True, slots=True)
class LanCommands:
    """`run`: start this server so that other devices can connect; `invite`: show their link and QR code."""

    run: str
    invite: str

    @classmethod
    def as_started(cls) -> "LanCommands":
        """With the configuration that this process was started with."""
        config, overrides = _options(sys.argv[1:])
        return cls._of(config, overrides)

    @classmethod
    def for_visitor(cls, *, here: bool) -> "LanCommands":
        """What a page may say: `here` if the visitor sits at this computer."""
        return cls.as_started() if here else cls.for_anyone()

    @classmethod
    def for_anyone(cls) -> "LanCommands":
        """Without this server's paths and settings."""
        return cls._of(None, (), is_public=True)

    @classmethod
    def _of(cls, config: str | None, overrides: Sequence[str], *, is_public: bool = False) -> "LanCommands":
        source = () if config is None else ("--config", config)
        sets = [word for each in overrides for word in ("--set", each)]
        if is_service():
            return cls(
                shlex.join((paths.NAME, "service", "install", *source, *sets, LAN)),
                shlex.join((paths.NAME, "invite", *source, *sets, LAN)),
            )
        if is_started_by_make():
            chosen = "" if config in {None, _DEFAULT_CONFIG} else f" CONFIG={shlex.quote(str(config))}"
            arguments = shlex.quote(shlex.join((LAN, *sets)))
            make, client = f"make run{chosen} ARGS={arguments}", ".venv/bin/packet-voice"
            return cls(make, f"{client} {shlex.join(('invite', *source, *sets, LAN))}")
        options = shlex.join((*source, *sets, LAN))
        if is_installed_command():
            command = shlex.quote(installed_command())
            return cls(f"{command} run {options}", f"{command} invite {options}")
        python = shlex.quote(interpreter(is_public=is_public))
        run = "pipeline.run" if called_as_pipeline_run() else "pipeline run"
        return cls(f"{python} -m {run} {options}", f"{python} -m pipeline invite {options}")


def is_service() -> bool:
    """Whether a service manager started this process."""
    return (
        os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        or os.environ.get("XPC_SERVICE_NAME") == f"local.{paths.NAME}"
    )


def _options(arguments: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The value of --config and those of --set that say nothing secret and nothing that --lan says."""
    config, overrides = None, []
    words = iter(arguments)
    for word in words:
        name, has_value, value = word.partition("=")
        if name in {"--config", "--set"}:
            value = value if has_value else next(words, "")
            if name == "--config":
                config = value
            elif not value.startswith((*_SECRET, *_REPLACED)):
                overrides.append(value)
    return config, overrides
