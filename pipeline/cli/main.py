"""The command line, `packet-voice COMMAND …` or `python -m pipeline COMMAND …`.

Each command is a module of this package with a `main(arguments)` that returns the exit code. A module is
imported only when its command is chosen, so `packet-voice health` does not load the model libraries. The
exception is `run`: its module is `pipeline.run`, because process managers and `mlx.launch` refer to it.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import did_you_mean
from pipeline.install.program_name import program
from pipeline.system.command import exits_on_signals, run_command

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Serve": {
        "run": "serve a model",
        "invite": "show the link and QR code for connecting another device",
        "health": "check whether a server is ready",
    },
    "Talk": {
        "talk": "talk to a running server, from a file or the microphone",
        "offline": "process an audio file without a server, as fast as possible",
    },
    "Models": {
        "weights": "inspect, fetch, verify or quantize a checkpoint",
        "voices": "list, add or remove voices for PersonaPlex",
        "config-reference": "print every configuration key",
    },
    "Measure": {
        "doctor": "check whether this machine can serve, and how many sessions",
        "bench": "measure the time of each stage",
        "bench-tensor-parallel": "measure a model split across several processes",
        "capacity": "estimate the hardware for a number of sessions",
        "loadtest": "load-test a server",
        "smoke": "start a server, check its endpoints and stream speech to it",
        "trace": "show the latency breakdown of traced frames, from a server's log",
    },
    "Install": {
        "service": "install and control the background service",
        "uninstall": "remove what make install put on this machine",
    },
}
RENAMED: Final[Mapping[str, str]] = {
    "soak": "loadtest",
    "configuration": "config-reference",
    "bench_ranks": "bench-tensor-parallel",
}
USAGE_ERROR: Final = 2


def usage() -> str:
    """The help text: every command with one line about it, in groups."""
    lines = [f"usage: {program('[--version] COMMAND [ARGUMENTS]')}"]
    for group, commands in GROUPS.items():
        lines += ["", group]
        lines += [f"  {name:<22} {summary}" for name, summary in commands.items()]
    return "\n".join([*lines, "", f"Run {program('COMMAND --help')} for the arguments of a command."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument and exit with its exit code."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name == "run":
        importlib.import_module("pipeline.run").run_and_exit(rest[:-1])
    sys.exit(run_command(lambda: _run(name, rest[:-1])))


def _run(name: str, arguments: Sequence[str]) -> int:
    if any(name in commands for commands in GROUPS.values()):
        with exits_on_signals():
            module = importlib.import_module(f"pipeline.cli.{name.replace('-', '_')}")
        exit_code: int = module.main(arguments)
        return exit_code
    if name == "--version":
        sys.stdout.write(f"{importlib.metadata.version('packet-voice')}\n")
    elif name in ("-h", "--help"):
        sys.stdout.write(f"{usage()}\n")
    else:
        sys.stderr.write(f"{_unknown(name) if name else usage()}\n")
        return USAGE_ERROR
    return 0


def _unknown(name: str) -> str:
    if name in RENAMED:
        return f"packet-voice: the command {name!r} is now called {RENAMED[name]!r}"
    known = [command for commands in GROUPS.values() for command in commands]
    return f"packet-voice: unknown command {name!r}{did_you_mean(name, known)}; see packet-voice --help"
