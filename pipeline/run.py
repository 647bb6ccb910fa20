"""`python -m pipeline.run`: load a model and serve it until a signal arrives.

SIGTERM drains and exits with 0, SIGINT drains and exits with 130, SIGHUP, unless it is ignored, with 129; a
second signal of any kind exits at once. Before the server handles signals, the first one ends the process
with the same exit code.

The libraries are imported when they are needed, so that a signal that arrives meanwhile, or a library that
cannot be loaded, ends as every other error does.

Neighbours: `pipeline.server` connects the parts; `pipeline.cli` holds every other command.
"""

import signal

if __name__ == "__main__":  # until `run_command` handles it: Python would print a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from pipeline.system.command import exit_now, exits_on_signals, run_command

DESCRIPTION = """\
Serve a model until SIGTERM, SIGINT or SIGHUP.

Each signal lets the open sessions finish, for at most drain_s seconds; a second one exits at once.
"""
EXIT_CODES = """\
exit codes: 0 after SIGTERM, 129 after SIGHUP, 130 after SIGINT, 1 the machine refused something,
2 configuration error, 3 weights error, 4 port in use, 70 internal error
"""
# Three model threads and Trio share one interpreter lock. At Python's default of 5 ms, Trio waits for a
# computing thread each time it wakes up; at 0.5 ms the wait is negligible (docs/explanation/performance.md).
SWITCH_INTERVAL_S = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with exits_on_signals(terminated=0):
        from pipeline.cli.arguments import (  # noqa: PLC0415 - see the module docstring
            CommandParser,
            add_config_arguments,
            add_lan_argument,
        )
        from pipeline.install.program_name import program  # noqa: PLC0415

    parser = CommandParser(
        prog=program("run"),
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_lan_argument(parser)
    options = parser.parse_args(arguments)
    with exits_on_signals(terminated=0):
        from pipeline import server  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return server.open_and_run(options.config, [*options.lan, *options.set])


def run_and_exit(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, flush all output and exit the process at once with the command's exit code.

    A normal interpreter exit destroys MLX while its threads, or a model thread inside it, may still be
    running. About one time in fifteen the process then dies of SIGABRT instead of returning its exit code.
    """
    exit_now(run_command(partial(main, arguments), terminated=0))


if __name__ == "__main__":
    run_and_exit()
