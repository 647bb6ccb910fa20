"""`packet-voice COMMAND …` is `python -m pipeline.COMMAND …`, without the environment to look for.

Each command is a module that knows its own arguments and ends the process itself. Nothing of it is
imported before it is chosen, so that `packet-voice health` need not load a model's libraries.
"""

import importlib.metadata
import runpy
import sys
from collections.abc import Mapping
from typing import Final

COMMANDS: Final[Mapping[str, str]] = {
    "run": "serve a model",
    "talk": "speak to a running server",
    "invite": "show the link and the QR code of a server that lets other machines in",
    "service": "have it run in the background: install, start, stop, restart, status, logs, uninstall",
    "health": "say whether a server is ready",
    "doctor": "say what this machine can hold, and what stands in the way",
    "weights": "inspect, fetch, verify or quantize a checkpoint",
    "offline": "answer a sound file without a server, as fast as it goes",
    "bench": "time each stage",
    "smoke": "start a server, probe it, speak to it",
    "soak": "press on a server until something gives",
    "bench_ranks": "time a model that several processes share",
    "capacity": "say what it takes to talk with so many people at once",
    "trace": "say where the time of frames went, from a server's log",
    "configuration": "print every key that a configuration may have",
    "uninstall": "remove what make install put on this machine",
}
USAGE: Final = 2


def usage() -> str:
    """Every command, a line each."""
    lines = [f"  {name:<14} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        ["usage: packet-voice [--version] COMMAND …", "", *lines, "", "packet-voice COMMAND --help"]
    )


def main() -> None:
    """Become the command that was named; without one, say which there are."""
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    if named in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"pipeline.{named}", run_name="__main__", alter_sys=True)
        return
    if named == "--version":
        sys.stdout.write(f"{importlib.metadata.version('packet-voice')}\n")
        return
    if named in ("-h", "--help"):
        sys.stdout.write(f"{usage()}\n")
        return
    sys.stderr.write(
        f"{usage()}\n" if not named else f"packet-voice: there is no {named!r}; --help says what is\n"
    )
    sys.exit(USAGE)
