"""`python -m pipeline invite`: show link, QR code and fingerprints of a server that lets others in.

For a server that was started where nobody saw its terminal, as a service is. Given the same
`--config`, `--set` and `--lan` it finds the same credentials, or makes them for the server to find.
A repository on a hub says nothing of servers, and is not asked. Exit codes: 0, 2 usage or configuration.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import add_config_arguments, add_lan_argument
from pipeline.cli.program_name import program
from pipeline.config import make_config, read_config
from pipeline.errors import ConfigError
from pipeline.lan.invitation import Invitation
from web.security.listen import Door


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=program("invite"), description=__doc__)
    add_config_arguments(parser)
    add_lan_argument(parser)
    options = parser.parse_args(arguments)
    source, overrides = options.config, [*options.lan, *options.set]
    if isinstance(source, Path):
        config = read_config(source, overrides)
    else:
        config = make_config({}, Path(str(source)), overrides, str(source))
    server = config.settings.server
    door = Door.of(server)
    if door.credentials is None:
        raise ConfigError(
            "pipeline.server.tls", "there is nothing to show but for a server with tls=auto (--lan)"
        )
    Invitation.to(door.credentials, door.address, server.port, door.token).show(sys.stdout)
    return 0
