"""How a training command ends: as every command of this project does (`pipeline.system.command`)."""

from collections.abc import Callable

from pipeline.system.command import run_command


def run(act: Callable[[], None]) -> int:
    """Run `act`; gives the command's exit code."""

    def main() -> int:
        act()
        return 0

    return run_command(main)
