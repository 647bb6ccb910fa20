"""How a training command ends: a user's mistake is one sentence and an exit code.

`pipeline.cli.arguments` does the same for a server's; it needs what only a server does, and a
machine that trains may have no more than PyTorch.
"""

import sys
from collections.abc import Callable

from pipeline.errors import StartupError


def run(act: Callable[[], None]) -> int:
    """Run `act`; gives the command's exit code."""
    try:
        act()
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0
