"""The paths of an installation. It writes nothing anywhere else.

The virtual environment and the configuration are in XDG folders on macOS too, as is usual for command-line
tools: the native folder has a space in its path, which the first line of a script cannot contain. Logs,
caches and data are in the native folders. `make install` computes `environment` and `link` the same way.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import platformdirs

from pipeline.errors import ConfigError

NAME: Final = "packet-voice"
CONFIG_NAME: Final = "config.json"
_PACKAGE: Final = Path(__file__).parents[1]


def _folder(variable: str, usual: str) -> Path:
    """Our folder in an XDG folder; a relative path counts as unset. Source: XDG Base Directory, §3."""
    configured = Path(os.environ.get(variable, ""))
    return (configured if configured.is_absolute() else home() / usual) / NAME


def home() -> Path:
    """The user's home folder.

    Raises:
        ConfigError: HOME is not set, and the user has no entry in the system's list of users.
    """
    return _absolute(Path.home)


def _absolute(find: Callable[[], Path]) -> Path:
    try:
        folder = find()
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # `~/…` would be created right here
        raise ConfigError("", "this user has no home folder: set HOME")
    return folder


def config_folder() -> Path:
    """The user's configuration; a `config.json` in it is never removed."""
    return _folder("XDG_CONFIG_HOME", ".config")


def environment() -> Path:
    """The virtual environment that `make install` creates."""
    return _folder("XDG_DATA_HOME", ".local/share") / "venv"


def link() -> Path:
    """The `packet-voice` command on the user's PATH."""
    return home() / ".local" / "bin" / NAME


def systemd_unit() -> Path:
    """The unit file of the user service on Linux. Source: systemd.unit(5), user unit search path."""
    return _folder("XDG_CONFIG_HOME", ".config").parent / "systemd" / "user" / f"{NAME}.service"


def launchd_agent() -> Path:
    """The property list of the user agent on macOS. Source: launchd.plist(5)."""
    return home() / "Library" / "LaunchAgents" / f"local.{NAME}.plist"


def log_file() -> Path:
    """The log of the service on macOS; on Linux it is in the journal."""
    return _absolute(lambda: platformdirs.user_log_path(NAME)) / f"{NAME}.log"


def cache_folder() -> Path:
    """Randomly initialized weights and the hub proxy's cache."""
    return _absolute(lambda: platformdirs.user_cache_path(NAME))


def data_folder() -> Path:
    """Certificates and tokens created on this machine."""
    return _absolute(lambda: platformdirs.user_data_path(NAME))


def is_installed() -> bool:
    """Whether this process runs from the environment that `make install` created, not from a checkout."""
    return environment().is_dir() and Path(sys.prefix).samefile(environment())


def embedded() -> Path:
    """The embedded model's folder: inside the package in a wheel, beside it in the source tree."""
    packaged = _PACKAGE / "configs" / "tiny"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs" / "tiny"


def default_config() -> Path:
    """The configuration a command uses without `--config`: the user's, or else the embedded model's."""
    try:
        user_config = config_folder() / CONFIG_NAME
        return user_config if user_config.is_file() else embedded()
    except (ConfigError, OSError):  # no home folder, or one that this user may not read
        return embedded()
