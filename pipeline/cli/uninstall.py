"""`python -m pipeline uninstall`: remove all that `make install` and the server put on this machine.

The service, the command, its environment, the cache and the certificates go. What the user wrote
stays, and so do downloads that other programs share; it says where. Exit codes: 0; 1 the service
could not be stopped first; 2 what runs is not an installation.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.cli.program_name import program
from pipeline.cli.service import remove
from pipeline.errors import ConfigError
from pipeline.install import paths


def _lying() -> Iterator[Path]:
    """What there is to remove; the environment, out of which this runs, comes last."""
    command = paths.link()
    if command.is_symlink() and command.resolve().is_relative_to(paths.environment().resolve()):
        yield command
    yield paths.cache_folder()
    yield paths.data_folder() / "lan"
    yield paths.environment()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("uninstall"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    if not paths.is_installed():
        raise ConfigError(
            "", f"{sys.prefix} is not what make install made ({paths.environment()}); nothing was removed"
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
    if paths.config_folder().is_dir():
        print(f"kept       {paths.config_folder()}, which is yours")
    print("kept       models from a hub, which other programs share (HF_HOME, or ~/.cache/huggingface)")
    return exit_code


def _remove_if_empty(folder: Path) -> None:
    """Of folders that bear our name."""
    if folder.name == paths.NAME and not any(folder.iterdir()):
        folder.rmdir()
