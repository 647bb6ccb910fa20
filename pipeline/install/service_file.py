"""The options of the service, saved in one file; the service manager's file is generated from them.

An upgrade reads the saved options and generates the new version's file for the same service.
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
from pipeline.system.inputs import read_bytes

FILE_NAME: Final = "service.json"
_PRIVATE: Final = 0o600  # the environment may hold a token


class ServiceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `packet-voice service install`.

    config: the value of `--config`, paths made absolute; None: the user's configuration, or the embedded
        model if there is none.
    set: overrides of the `pipeline` section.
    environment: variables to set in addition to those of the service manager.
    """

    config: str | None = None
    set: tuple[str, ...] = ()
    environment: dict[str, str] = {}  # msgspec copies an empty default

    @classmethod
    def read(cls) -> Self | None:
        """The saved options, None if there are none.

        Raises:
            ConfigError: the file cannot be read or is malformed.
        """
        file = _file()
        try:
            return msgspec.json.decode(read_bytes(file), type=cls)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(str(file), f"cannot be read ({error.strerror})") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(
                str(file), f"{error}; correct the file, or remove it and install again"
            ) from None

    def write(self) -> None:
        """Save the options for the next installation."""
        write_private(_file(), msgspec.json.format(msgspec.json.encode(self)) + b"\n")


@dataclass(frozen=True, slots=True)
class Service:
    """The process to run: `command` in `folder`, where its relative paths start."""

    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a token

    @classmethod
    def of(cls, options: ServiceOptions, folder: Path) -> Self:
        """The server with `options`, run by this interpreter.

        Raises:
            ConfigError: a value contains characters that a service file cannot hold.
        """
        config = () if options.config is None else ("--config", options.config)
        overrides = [part for override in options.set for part in ("--set", override)]
        # -P: do not import modules from the working folder.
        command = (sys.executable, "-P", "-m", "pipeline", "run", *config, *overrides)
        for text in (*command, str(folder), *options.environment.values()):
            if not text.isprintable():
                raise ConfigError("service", f"{text!r} contains characters that a service file cannot hold")
        return cls(command, folder, dict(options.environment))


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, atomically.

    Raises:
        ConfigError: the folder cannot be created or written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE), "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written ({error.strerror})") from None


def parse_variables(arguments: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=VALUE`, or `NAME` for its current value.

    Raises:
        ConfigError: a name is invalid, or not set in this environment.
    """
    variables = {}
    for each in arguments:
        name, equals, value = each.partition("=")
        if not (name.isidentifier() and name.isascii()):
            raise ConfigError("--env", f"{each!r} is not of the form NAME or NAME=VALUE")
        if not equals and name not in os.environ:
            raise ConfigError("--env", f"{name} is not set in this environment")
        variables[name] = value if equals else os.environ[name]
    return variables


def _file() -> Path:
    return config_folder() / FILE_NAME
