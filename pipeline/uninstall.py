"""`python -m pipeline.uninstall`: remove all that `make install` and the server put on this machine.

The service, the command, its environment, the cache and the certificates go. What the user wrote
stays, and so do downloads that other programs share; it says where. Exit codes: 0; 1 the service
could not be stopped first; 2 what runs is not an installation.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.commands import run_command
from pipeline.errors import ConfigError
from pipeline.installing import places
from pipeline.installing.calling import program
from pipeline.service import remove


def _lying() -> Iterator[Path]:
    """What there is to remove; the environment, out of which this runs, comes last."""
    command = places.link()
    if command.is_symlink() and command.resolve().is_relative_to(places.environment().resolve()):
        yield command
    yield places.cache_folder()
    yield places.data_folder() / "lan"
    yield places.environment()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("uninstall"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    if not places.is_installed():
        raise ConfigError(
            "", f"{sys.prefix} is not what make install made ({places.environment()}); nothing was removed"
        )
    exit_code = remove()
    for path in _lying():
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        print(f"removed    {path}")
        _remove_if_empty(path.parent)
    if places.config_folder().is_dir():
        print(f"kept       {places.config_folder()}, which is yours")
    print("kept       models from a hub, which other programs share (HF_HOME, or ~/.cache/huggingface)")
    return exit_code


def _remove_if_empty(folder: Path) -> None:
    """Of folders that bear our name."""
    if folder.name == places.NAME and not any(folder.iterdir()):
        folder.rmdir()


if __name__ == "__main__":
    sys.exit(run_command(main))
