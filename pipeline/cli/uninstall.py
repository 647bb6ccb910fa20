"""Remove what make install and the server put on this machine.

Removes the service and its saved options, the command, its virtual environment, the cache and the
certificates. Keeps a configuration that you wrote and the downloads that other programs share, and prints
where they are.

Exit codes: 0; 1 the service still runs; 2 this is not an installation.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.cli.arguments import CommandParser
from pipeline.cli.service import remove_service
from pipeline.errors import ConfigError
from pipeline.install import paths
from pipeline.install.program_name import program
from pipeline.install.service_file import FILE_NAME as SERVICE_OPTIONS


def _installed_paths() -> Iterator[Path]:
    """What to remove; the environment comes last because this process runs from it."""
    command = paths.link()
    if command.is_symlink() and command.resolve().is_relative_to(paths.environment().resolve()):
        yield command
    yield paths.config_folder() / SERVICE_OPTIONS
    yield paths.cache_folder()
    yield paths.data_folder() / "lan"
    yield paths.environment()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("uninstall"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    if not paths.is_installed():
        raise ConfigError(
            "",
            f"not an installation: this runs from {sys.prefix}, not from {paths.environment()}; "
            "nothing was removed",
        )
    exit_code = remove_service()
    for path in _installed_paths():
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        print(f"removed    {path}")
        _remove_if_empty(path.parent)
    _remove_if_empty(paths.config_folder())
    if paths.config_folder().is_dir():
        print(f"kept       {paths.config_folder()} (your configuration)")
    print("kept       downloaded models, shared with other programs (HF_HOME or ~/.cache/huggingface)")
    return exit_code


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder of ours that has nothing left in it."""
    if folder.name == paths.NAME and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
