"""Show the link, QR code and certificate fingerprints for connecting another device.

The server prints them itself when it starts on a terminal; this command is for a server that does not,
such as a service. Pass the --config, --set and --lan of the server: they lead to the same credentials, which
are created if the server has not started yet.

Exit codes: 0; 2 usage or configuration error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import CommandParser, add_config_arguments, add_lan_argument
from pipeline.config import make_config, read_config
from pipeline.errors import ConfigError
from pipeline.install.program_name import program
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
    Invitation.to(listen.credentials, listen.address, server.port, listen.token).show(sys.stdout)
    return 0
