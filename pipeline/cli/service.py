"""Run the server in the background, as a service of your user account.

    packet-voice service install                      your own configuration, or the embedded model
    packet-voice service install --config hf://kyutai/moshiko-mlx-q4 --set lanes.max=2
    packet-voice service status

systemd (Linux) or launchd (macOS) starts the service now, after every login and after a failure. The
arguments of install are saved in service.json next to your configuration; install without arguments uses
the saved ones again.

Exit codes: 0; 1 the service manager is unavailable or refused, or the service is not running (status);
2 usage or configuration error.
"""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from pipeline.cli.arguments import CommandParser, add_config_arguments, add_lan_argument, whole_number
from pipeline.config import Server, make_config, parse_source, read_config
from pipeline.errors import ConfigError, NoServiceManagerError, ServiceError
from pipeline.install import paths
from pipeline.install.launchd import Launchd
from pipeline.install.program_name import program
from pipeline.install.service_file import Service, ServiceOptions, parse_variables
from pipeline.install.systemd import Systemd
from web.security.listen import ListenConfig

NOT_RUNNING: Final = 1
LOG_LINES: Final = 50


def manager() -> Systemd | Launchd:
    """The service manager of this system."""
    return Launchd() if sys.platform == "darwin" else Systemd()


def install(options: argparse.Namespace) -> int:
    """Write the service file, start the service, and print where to find everything."""
    selected = _options(options)
    folder, server, listen = _validate(selected)
    services = manager()
    services.write(Service.of(selected, folder))
    selected.write()
    print(f"service    {services.file}")
    print(f"serves     {' '.join((selected.config or str(paths.default_config()), *selected.set))}")
    try:
        services.enable()
    except ServiceError as error:
        again = f"{paths.NAME} service install"
        raise ServiceError(
            f"{error}; the service file is written: once this is fixed, run `{again}`"
        ) from None
    print(f"address    {listen.scheme}://{server.host}:{server.port}")
    if listen.credentials is not None:
        source = () if selected.config is None else ("--config", selected.config)
        same = [part for each in selected.set for part in ("--set", each)]
        print(f"link       {shlex.join((paths.NAME, 'invite', *source, *same))}")
    print(f"log        {paths.NAME} service logs --follow")
    print(services.hint)
    return 0


def uninstall(_: argparse.Namespace) -> int:
    """Stop the service and remove its file; the user's configuration stays."""
    return remove_service()


def remove_service() -> int:
    """Stop the service and remove its files; 1 if the service manager could not stop it.

    The files are removed in either case: without its manager the service does not run.
    """
    services = manager()
    if not services.file.exists():
        print("service    not installed")
        return 0
    problem = None
    try:
        services.disable()
    except NoServiceManagerError as error:
        if pid := _running_server():  # started in a session that this one cannot reach
            problem = ServiceError(f"{error}; the server still runs: end process {pid}")
    except ServiceError as error:
        problem = error
    with contextlib.suppress(ServiceError):
        services.remove_files()
    print(f"removed    {services.file}")
    if problem is None:
        return 0
    print(f"could not stop the service: {problem}", file=sys.stderr)
    return problem.exit_code


def _running_server() -> int | None:
    """The process of a server that runs from the installed environment."""
    installed = str(paths.environment())
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or ()
        if (
            command
            and command[0].startswith(f"{installed}/")
            and "run" in command
            and process.pid != os.getpid()
        ):
            return int(process.pid)
    return None


def start(_: argparse.Namespace) -> int:
    """Start the service if it is not running."""
    _installed().start()
    return 0


def stop(_: argparse.Namespace) -> int:
    """Let the service finish its sessions and stop it until the next login or `start`."""
    _installed().stop()
    return 0


def restart(_: argparse.Namespace) -> int:
    """Restart the service, for example after a configuration change."""
    _installed().restart()
    return 0


def status(_: argparse.Namespace) -> int:
    """Print the status of the service."""
    running, text = _installed().status()
    print(text, end="")
    return 0 if running else NOT_RUNNING


def logs(options: argparse.Namespace) -> int:
    """Print the last lines of the log."""
    return _installed().show_logs(options.lines, follow=options.follow)


def _installed() -> Systemd | Launchd:
    services = manager()
    if not services.file.exists():
        raise ConfigError("", f"no service is installed; run {paths.NAME} service install")
    return services


def _options(options: argparse.Namespace) -> ServiceOptions:
    """The given options; if none are given, the saved ones, or else the defaults."""
    given = options.config is not None or options.set or options.lan or options.env
    saved = None if given else ServiceOptions.read()
    if saved is not None:
        return saved
    source = options.config
    if isinstance(source, Path):
        source = source.absolute()
    return ServiceOptions(
        None if source is None else str(source), (*options.lan, *options.set), parse_variables(options.env)
    )


def _validate(options: ServiceOptions) -> tuple[Path, Server, ListenConfig]:
    """The working folder of the service and its listening address.

    Errors that would otherwise only show up in the service's log are raised here.

    Raises:
        ConfigError: a setting is wrong, or other machines could connect without TLS and a token.
    """
    folder = paths.config_folder()
    source = paths.default_config() if options.config is None else parse_source(options.config)
    if isinstance(source, Path):
        config = read_config(source, options.set)
        if options.config is not None:
            folder = source if source.is_dir() else source.parent
    else:  # a repository on a hub has no server settings, so it is not fetched
        config = make_config({}, folder / paths.CONFIG_NAME, options.set, str(source))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):  # relative paths in the settings start here
        listen = ListenConfig.from_settings(config.settings.server)
    return folder, config.settings.server, listen


SUBCOMMANDS: Final[Mapping[str, tuple[Callable[[argparse.Namespace], int], str]]] = {
    "install": (install, "start the service now and after every login; run again to apply new options"),
    "start": (start, "start the service if it is not running"),
    "stop": (stop, "let the sessions finish and stop the service until the next login or start"),
    "restart": (restart, "restart the service, for example after a configuration change"),
    "status": (status, "show whether the service is running"),
    "logs": (logs, "print the log of the service"),
    "uninstall": (uninstall, "stop and remove the service; the configuration and the command stay"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("service"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    for name, (_, summary) in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        if name == "install":
            add_config_arguments(subparser, required=False)
            add_lan_argument(subparser)
            subparser.add_argument(
                "--env",
                action="append",
                default=[],
                metavar="NAME[=VALUE]",
                help="environment variable of the service; without VALUE, its current value; repeatable",
            )
        if name == "logs":
            subparser.add_argument(
                "--lines",
                type=whole_number(0),
                default=LOG_LINES,
                metavar="N",
                help=f"number of lines (default {LOG_LINES})",
            )
            subparser.add_argument("--follow", "-f", action="store_true", help="keep printing new lines")
    options = parser.parse_args(arguments)
    run, _ = SUBCOMMANDS[options.subcommand]
    return run(options)
