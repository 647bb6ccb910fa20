"""A service is what the user chose, in one file of theirs; the manager's own file is made from it.

So an upgrade installs the same service again, whatever the new version's file looks like.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from pipeline.errors import ConfigError
from pipeline.install.paths import config_folder

CHOICE_NAME: Final = "service.json"
_PRIVATE: Final = 0o600  # the environment may hold a token


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `packet-voice service install` was told.

    config: what to serve, as `--config` takes it, a path absolute; None: the user's configuration, or
        while there is none the embedded model.
    set: overrides of the `pipeline` section.
    environment: variables that the service has beside those its manager gives it.
    """

    config: str | None = None
    set: tuple[str, ...] = ()
    environment: dict[str, str] = {}  # msgspec copies an empty default

    @classmethod
    def read(cls) -> Self | None:
        """What was chosen last; None where nothing was.

        Raises:
            ConfigError: the file is not as it was written.
        """
        file = _file()
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(str(file), f"cannot be read ({error.strerror})") from None
        except msgspec.DecodeError as error:
            raise ConfigError(str(file), f"{error}; put it right, or remove it and install anew") from None

    def write(self) -> None:
        """Keep it, for the next installation."""
        put(_file(), msgspec.json.format(msgspec.json.encode(self)) + b"\n")


@dataclass(frozen=True, slots=True)
class Service:
    """What runs: `command` in `folder`, where the names that its configuration gives to files begin."""

    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a token

    @classmethod
    def of(cls, choice: Choice, folder: Path) -> Self:
        """The server that was chosen, by this very interpreter; nothing is looked for in `folder`.

        Raises:
            ConfigError: something of it cannot be written into a manager's file.
        """
        config = () if choice.config is None else ("--config", choice.config)
        overrides = [part for override in choice.set for part in ("--set", override)]
        # -P: a folder of the user's is no place to import from.
        command = (sys.executable, "-P", "-m", "pipeline", "run", *config, *overrides)
        for text in (*command, str(folder), *choice.environment.values()):
            if not text.isprintable():
                raise ConfigError("service", f"{text!r} has characters that its file cannot hold")
        return cls(command, folder, dict(choice.environment))


def put(path: Path, content: bytes) -> None:
    """Write a file for its owner alone; it is there whole or not at all.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE), "wb") as file:
            file.write(content)
        beside.replace(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written ({error.strerror})") from None


def named_variables(wanted: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` with the value it has here.

    Raises:
        ConfigError: there is none, or the name is none.
    """
    found = {}
    for each in wanted:
        name, equals, value = each.partition("=")
        if not (name.isidentifier() and name.isascii()):
            raise ConfigError("--env", f"{each!r} is neither NAME nor NAME=VALUE")
        if not equals and name not in os.environ:
            raise ConfigError("--env", f"{name} is not set here")
        found[name] = value if equals else os.environ[name]
    return found


def _file() -> Path:
    return config_folder() / CHOICE_NAME
