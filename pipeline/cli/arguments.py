"""Arguments that several commands share, and messages about arguments that name the one probably meant.

Neighbours: `pipeline.system.command` turns errors into sentences and exit codes.
"""

import argparse
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from pipeline.config import LARGEST_INTEGER, LONGEST_S, Server, parse_source
from pipeline.errors import ConfigError, did_you_mean
from pipeline.install.paths import default_config
from pipeline.install.program_name import called_as_pipeline_run

_UNKNOWN = re.compile(r"unrecognized arguments: (\S+)(?: ([^-\s]\S*))?|invalid choice: '([^']*)'")
_SECRET = {"token"}
N = TypeVar("N", int, float)
LAN_OVERRIDES = ("server.host=0.0.0.0", "server.tls=auto")


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one sentence: which argument is wrong or missing, and what was meant."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and where to read more; exit code 2."""
        if unknown := _UNKNOWN.search(message):
            option, value, choice = unknown.groups()
            message += self._as_setting(option, value) or did_you_mean(
                (option or choice).partition("=")[0], self._names()
            )
        self.exit(ConfigError.exit_code, f"{self.prog}: {message}\nsee {self.prog} --help\n")

    def _as_setting(self, option: str | None, value: str | None) -> str:
        """How to set what the option names, where it is a setting of the server, such as --port."""
        if option is None or "--set" not in self._option_string_actions:
            return ""
        name, _, given = option.removeprefix("--").replace("-", "_").partition("=")
        if name not in Server.__struct_fields__:
            return ""
        shown = "VALUE" if name in _SECRET else given or value or "VALUE"
        return f"; use --set server.{name}={shown}"

    def _names(self) -> list[str]:
        names = [name for action in self._actions for name in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - has no public name
                names += [name for parser in action.choices.values() for name in parser._names()]  # noqa: SLF001
            names += [str(choice) for choice in action.choices or ()]
        return names


def whole_number(least: int = 1, most: int = LARGEST_INTEGER) -> Callable[[str], int]:
    """The type of an argument that is a whole number within bounds."""
    return _within(int, "a whole number", least, most)


def number(least: float, most: float = LONGEST_S) -> Callable[[str], float]:
    """The type of an argument that is a number within bounds, and so finite."""
    return _within(float, "a number", least, most)


def _within(read: Callable[[str], N], kind: str, least: float, most: float) -> Callable[[str], N]:
    def parse(text: str) -> N:
        try:
            value = read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        if not least <= value <= most:  # NaN is not in any range
            raise argparse.ArgumentTypeError(f"{value} is not between {least:.16g} and {most:.16g}")
        return value

    return parse


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--config PATH` and `--set KEY=VALUE`.

    `required`: without `--config`, use the user's own configuration or else the embedded model;
    `python -m pipeline.run` then insists on the argument. Not `required`: `--config` may be None.
    """
    default = default_config() if required and not called_as_pipeline_run() else None
    parser.add_argument(
        "--config",
        type=parse_source,
        required=required and default is None,
        default=default,
        metavar="PATH",
        help="a config.json, the folder that contains it, or hf://org/repo[@revision]"
        + ("" if default is None else " (default %(default)s)"),
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a configuration key, for example server.port=9000; repeatable",
    )


def add_lan_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--lan`, short for `LAN_OVERRIDES`; overrides given with `--set` take precedence."""
    parser.add_argument(
        "--lan",
        action="store_const",
        const=LAN_OVERRIDES,
        default=(),
        help="accept connections from other devices on the network; short for --set "
        + " --set ".join(LAN_OVERRIDES),
    )
