"""`python -m pipeline service`: the server in the background, as a service of this user's.

    packet-voice service install                      the user's configuration, or the embedded model
    packet-voice service install --config hf://kyutai/moshiko-mlx-q4 --set lanes.max=2
    packet-voice service status

systemd runs it on Linux, launchd on macOS: now, after every login, and again when it fails. What
`install` is told it keeps in `service.json` beside the user's configuration; told nothing, it
installs the same again. Exit codes: 0; 1 the service manager does not answer or does not do it, or
the service does not run (`status`); 2 usage or configuration.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pipeline.cli.arguments import add_config_arguments, add_lan_argument
from pipeline.cli.program_name import program
from pipeline.config import Server, make_config, parse_source, read_config
from pipeline.errors import ConfigError, ServiceError
from pipeline.install import paths
from pipeline.install.launchd import Launchd
from pipeline.install.service_file import Choice, Service, named_variables
from pipeline.install.systemd import Systemd
from web.security.listen import Door

NOT_RUNNING: Final = 1
LINES: Final = 50


def manager() -> Systemd | Launchd:
    """What runs services for users on this system."""
    return Launchd() if sys.platform == "darwin" else Systemd()


def install(options: argparse.Namespace) -> int:
    """Write the manager's file and have it run, by what was chosen now or else before."""
    choice = _choice(options)
    folder, server, door = _judge(choice)
    chosen = manager()
    chosen.write(Service.of(choice, folder))
    choice.write()
    print(f"service    {chosen.file}")
    print(f"serves     {' '.join((choice.config or str(paths.usual_config()), *choice.set))}")
    try:
        chosen.enable()
    except ServiceError as error:
        again = f"{paths.NAME} service install"
        raise ServiceError(
            f"{error}; the file is written, and `{again}` has it run once that is mended"
        ) from None
    print(f"address    {door.scheme}://{server.host}:{server.port}")
    if door.credentials is not None:
        source = () if choice.config is None else ("--config", choice.config)
        same = [part for each in choice.set for part in ("--set", each)]
        print(f"link       {shlex.join((paths.NAME, 'invite', *source, *same))}")
    print(f"watch it   {paths.NAME} service logs --follow")
    print(chosen.note)
    return 0


def uninstall(_: argparse.Namespace) -> int:
    """Have it end, and remove the manager's file; what the user wrote stays."""
    return remove()


def remove() -> int:
    """End the service and forget it; 1 where its manager could not be asked to end it.

    The file goes all the same: a manager that is not there does not run it.
    """
    chosen = manager()
    if not chosen.file.exists():
        print("service    none is installed")
        return 0
    problem = None
    try:
        chosen.disable()
    except ServiceError as error:
        problem = error
    with contextlib.suppress(ServiceError):
        chosen.forget()
    print(f"removed    {chosen.file}")
    if problem is None:
        return 0
    print(f"the service was not stopped: {problem}", file=sys.stderr)
    return problem.exit_code


def start(_: argparse.Namespace) -> int:
    """Run it, where it does not."""
    _installed().start()
    return 0


def stop(_: argparse.Namespace) -> int:
    """Have it finish its sessions and end, until the next login or `start`."""
    _installed().stop()
    return 0


def restart(_: argparse.Namespace) -> int:
    """Stop and start it, as after a change of its configuration."""
    _installed().restart()
    return 0


def status(_: argparse.Namespace) -> int:
    """Say how it is."""
    runs, text = _installed().status()
    print(text, end="")
    return 0 if runs else NOT_RUNNING


def logs(options: argparse.Namespace) -> int:
    """Print what it said last."""
    return _installed().show_logs(options.lines, follow=options.follow)


def _installed() -> Systemd | Launchd:
    chosen = manager()
    if not chosen.file.exists():
        raise ConfigError("", f"no service is installed; {paths.NAME} service install does")
    return chosen


def _choice(options: argparse.Namespace) -> Choice:
    """What the user says now; said nothing, what they said before; never said, their configuration."""
    said = options.config is not None or options.set or options.lan or options.env
    kept = None if said else Choice.read()
    if kept is not None:
        return kept
    source = options.config
    if isinstance(source, Path):
        source = source.absolute()
    return Choice(
        None if source is None else str(source), (*options.lan, *options.set), named_variables(options.env)
    )


def _judge(choice: Choice) -> tuple[Path, Server, Door]:
    """The folder that the service works in, and where it listens; what is wrong is told now, not in a log.

    Raises:
        ConfigError: the settings are wrong, or other machines could listen in.
    """
    folder = paths.config_folder()
    source = paths.usual_config() if choice.config is None else parse_source(choice.config)
    if isinstance(source, Path):
        config = read_config(source, choice.set)
        if choice.config is not None:
            folder = source if source.is_dir() else source.parent
    else:  # what a repository says of servers is not asked
        config = make_config({}, folder / paths.CONFIG_NAME, choice.set, str(source))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):  # where the paths of the settings begin
        door = Door.of(config.settings.server)
    return folder, config.settings.server, door


VERBS: Final[Mapping[str, tuple[Callable[[argparse.Namespace], int], str]]] = {
    "install": (install, "run it now and after every login; installed anew it takes what has changed"),
    "start": (start, "run it, where it does not"),
    "stop": (stop, "have it finish its sessions and end, until the next login or start"),
    "restart": (restart, "stop and start it, as after a change of its configuration"),
    "status": (status, "say how it is"),
    "logs": (logs, "print what it said last"),
    "uninstall": (uninstall, "have it end for good; configuration and command stay"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("service"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, (_, summary) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary)
        if name == "install":
            add_config_arguments(verb, required=False)
            add_lan_argument(verb)
            verb.add_argument(
                "--env",
                action="append",
                default=[],
                metavar="NAME[=VALUE]",
                help="a variable that the service is to have; without a value, with the one it has here",
            )
        if name == "logs":
            verb.add_argument("--lines", type=int, default=LINES, metavar="N", help=f"default {LINES}")
            verb.add_argument("--follow", "-f", action="store_true", help="go on until interrupted")
    options = parser.parse_args(arguments)
    act, _ = VERBS[options.verb]
    return act(options)
