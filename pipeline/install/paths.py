"""Where everything of an installation lies; nothing of it lies anywhere else.

Environment and configuration follow the XDG folders on macOS too, as command-line tools do there:
a path without a space, which the first line of a script cannot hold. Logs, caches and data lie where each
system has them. `make install` computes `environment` and `link` the same way.
"""

import os
import sys
from pathlib import Path
from typing import Final

import platformdirs

NAME: Final = "packet-voice"
CONFIG_NAME: Final = "config.json"
_HERE: Final = Path(__file__).parents[1]


def _folder(variable: str, usual: str) -> Path:
    """An XDG folder; one that is not absolute counts as unset. Source: XDG Base Directory, §3."""
    chosen = Path(os.environ.get(variable, ""))
    return (chosen if chosen.is_absolute() else Path.home() / usual) / NAME


def config_folder() -> Path:
    """The user's own: written once, where it is missing, and never removed."""
    return _folder("XDG_CONFIG_HOME", ".config")


def environment() -> Path:
    """The virtual environment that `make install` fills."""
    return _folder("XDG_DATA_HOME", ".local/share") / "venv"


def link() -> Path:
    """The command, as a shell finds it."""
    return Path.home() / ".local" / "bin" / NAME


def systemd_unit() -> Path:
    """Of a per-user service on Linux. Source: systemd.unit(5), user unit search path."""
    return _folder("XDG_CONFIG_HOME", ".config").parent / "systemd" / "user" / f"{NAME}.service"


def launchd_agent() -> Path:
    """Of a per-user service on macOS. Source: launchd.plist(5)."""
    return Path.home() / "Library" / "LaunchAgents" / f"local.{NAME}.plist"


def log_file() -> Path:
    """What the service says on macOS; systemd has its journal."""
    return platformdirs.user_log_path(NAME) / f"{NAME}.log"


def cache_folder() -> Path:
    """Untrained weights, and what the hub proxy keeps."""
    return platformdirs.user_cache_path(NAME)


def data_folder() -> Path:
    """Certificates and tokens that were made here."""
    return platformdirs.user_data_path(NAME)


def is_installed() -> bool:
    """Whether what runs is what `make install` made, and not a checkout's own environment."""
    return environment().is_dir() and Path(sys.prefix).samefile(environment())


def embedded() -> Path:
    """The folder of the embedded model's configuration: in a wheel, or else in the source tree."""
    packed = _HERE / "configs" / "tiny"
    return packed if packed.is_dir() else _HERE.parent / "configs" / "tiny"


def usual_config() -> Path:
    """What a command takes that is not told: the user's configuration, or else the embedded model's."""
    own = config_folder() / CONFIG_NAME
    return own if own.is_file() else embedded()
