"""`packet-voice NAME …`, which is `python -m pipeline NAME …`: every command, found by its name.

Each command is a module of this package with a `main(arguments)` that returns an exit code. Nothing of it
is imported before it is chosen, so that `packet-voice health` does not load a model's libraries. Serving is
`pipeline.run`, at the root of the package because process managers name it.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.cli.arguments import run_command

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Serve": {
        "run": "serve a model",
        "invite": "show the link and QR code that let another device in",
        "health": "check whether a server is ready",
    },
    "Talk": {
        "talk": "talk to a running server, from a file or the microphone",
        "offline": "answer an audio file without a server, as fast as possible",
    },
    "Models": {
        "weights": "inspect, fetch, verify or quantize a checkpoint",
        "config-reference": "print every configuration key",
    },
    "Measure": {
        "doctor": "check this machine: how many sessions it holds, and what is in the way",
        "bench": "time each stage",
        "bench-tensor-parallel": "time a model shared by several processes",
        "capacity": "estimate the hardware for a number of concurrent sessions",
        "loadtest": "load-test a server",
        "smoke": "start a server, probe it and stream speech to it",
        "trace": "show where frames spent their time, from a server's log",
    },
    "Install": {
        "service": "manage the background service: install, start, stop, restart, status, logs, uninstall",
        "uninstall": "remove everything that make install put on this machine",
    },
}
RENAMED: Final[Mapping[str, str]] = {
    "soak": "loadtest",
    "configuration": "config-reference",
    "bench_ranks": "bench-tensor-parallel",
}
USAGE_ERROR: Final = 2


def usage() -> str:
    """Every command, a line each, in groups."""
    lines = ["usage: packet-voice [--version] COMMAND [ARGUMENTS]"]
    for group, commands in GROUPS.items():
        lines += ["", group]
        lines += [f"  {name:<22} {summary}" for name, summary in commands.items()]
    return "\n".join([*lines, "", "packet-voice COMMAND --help shows a command's own arguments."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named command and exit with its code."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name == "run":
        importlib.import_module("pipeline.run").run_and_exit(rest[:-1])
    if any(name in commands for commands in GROUPS.values()):
        module = importlib.import_module(f"pipeline.cli.{name.replace('-', '_')}")
        sys.exit(run_command(lambda: module.main(rest[:-1])))
    if name == "--version":
        sys.stdout.write(f"{importlib.metadata.version('packet-voice')}\n")
    elif name in ("-h", "--help"):
        sys.stdout.write(f"{usage()}\n")
    else:
        sys.stderr.write(f"{_unknown(name) if name else usage()}\n")
        sys.exit(USAGE_ERROR)


def _unknown(name: str) -> str:
    if name in RENAMED:
        return f"packet-voice: {name!r} is now {RENAMED[name]!r}"
    return f"packet-voice: unknown command {name!r}; packet-voice --help lists the commands"
