"""Arguments that several commands share, and the conversion of errors into exit codes.

An error that the user can fix ends as one sentence on stderr and an exit code, never as a traceback.
"""

import argparse
import sys
from collections.abc import Callable

from pipeline.cli.program_name import called_as_pipeline_run
from pipeline.config import parse_source
from pipeline.errors import EXIT_INTERRUPTED, StartupError
from pipeline.install.paths import default_config

LAN_OVERRIDES = ("server.host=0.0.0.0", "server.tls=auto")


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


def run_command(main: Callable[[], int]) -> int:
    """Run `main`; print a `StartupError` as one sentence and return its exit code."""
    try:
        return main()
    except StartupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
