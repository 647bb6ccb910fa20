"""What every command line shares: the arguments that name a config, and how a failure ends.

A user's mistake is one sentence on stderr and an exit code, never a traceback.
"""

import argparse
import signal
import sys
from collections.abc import Callable

from pipeline.config import parse_source
from pipeline.errors import StartupError

INTERRUPTED = 128 + signal.SIGINT


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--config PATH` and `--set key=value`."""
    parser.add_argument(
        "--config",
        type=parse_source,
        required=required,
        metavar="PATH",
        help="a config.json, the folder that holds it, or hf://org/repo[@revision]",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the `pipeline` section, as in server.port=9000; may be repeated",
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
