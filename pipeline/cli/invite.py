"""Show the link, QR code and certificate fingerprints for connecting another device.

The server prints them itself when it starts on a terminal; this command is for a server that does not,
such as a service. Pass the --config, --set and --lan of the server: they lead to the same credentials, which
are created if the server has not started yet. Without a port among them, the link has that of the server
which runs with these credentials.

Exit codes: 0; 2 usage or configuration error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import CommandParser, add_config_arguments, add_lan_argument
from pipeline.cli.health import is_server
from pipeline.config import Server, make_config, read_config
from pipeline.errors import ConfigError
from pipeline.install.program_name import program
from pipeline.lan.credentials import Credentials
from pipeline.lan.invitation import Invitation
from web.security.listen import ListenConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("invite"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    add_lan_argument(parser)
    options = parser.parse_args(arguments)
    source, overrides = options.config, [*options.lan, *options.set]
    if isinstance(source, Path):
        config = read_config(source, overrides)
    else:  # a repository on a hub has no server settings, so it is not fetched
        config = make_config({}, Path(str(source)), overrides, str(source))
    server = config.settings.server
    listen = ListenConfig.from_settings(server)
    if listen.credentials is None:
        raise ConfigError("pipeline.server.tls", "only a server with tls=auto has an invitation (use --lan)")
    port = _port(server, listen.credentials, listen.address)
    Invitation.to(listen.credentials, listen.address, port, listen.token).show(sys.stdout)
    return 0


def _port(server: Server, credentials: Credentials, address: str) -> int:
    """The port that was configured; where none was, that of the server which runs with these credentials."""
    if server.port not in {0, Server().port}:
        return server.port
    noted = credentials.noted_port()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return noted if noted is not None and is_server(host, noted) else server.port
