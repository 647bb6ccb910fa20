"""What every command line shares: the arguments that name a config, and how a failure ends.

A user's mistake is one sentence on stderr and an exit code, never a traceback.
"""

import argparse
import signal
import sys
from collections.abc import Callable

from pipeline.cli.program_name import is_entry_point
from pipeline.config import parse_source
from pipeline.errors import StartupError
from pipeline.install.paths import usual_config

INTERRUPTED = 128 + signal.SIGINT
LAN = ("server.host=0.0.0.0", "server.tls=auto")


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--config PATH` and `--set key=value`; `packet-voice` knows what to take for the first."""
    usual = usual_config() if required and not is_entry_point() else None
    parser.add_argument(
        "--config",
        type=parse_source,
        required=required and usual is None,
        default=usual,
        metavar="PATH",
        help="a config.json, the folder that holds it, or hf://org/repo[@revision]"
        + ("" if usual is None else " (default %(default)s)"),
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the `pipeline` section, as in server.port=9000; may be repeated",
    )


def add_lan_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--lan`, which stands for the overrides `LAN`; those of `--set` go over them."""
    parser.add_argument(
        "--lan",
        action="store_const",
        const=LAN,
        default=(),
        help="let phones and other machines of this network in: --set " + " --set ".join(LAN),
    )


def run_command(main: Callable[[], int]) -> int:
    """Run `main` and turn the failures a user can cause into a sentence and an exit code."""
    try:
        return main()
    except StartupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
