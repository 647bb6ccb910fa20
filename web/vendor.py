"""Third-party files come from the lock file, byte for byte, or not at all.

`python -m web.vendor` fetches the packages that `web/vendor.lock.json` names with the npm client,
checks each against its SHA-512, and lays the files that the pages use into
`web/vendored/<package>-<version>/`, which is not under version control. A server without them
runs; what needs them says that it is not ready.

Neighbours: `web.routes.pages` serves what is there. What does not belong here: our own files.
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

LOCK = Path(__file__).with_name("vendor.lock.json")
FOLDER = Path(__file__).with_name("vendored")


class VendorError(Exception):
    """The files could not be fetched, or are not those that the lock file names."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package of the lock file; `integrity` is npm's, `files` are paths inside it."""

    name: str
    version: str
    license: str
    integrity: str
    files: tuple[str, ...]

    @property
    def slug(self) -> str:
        """A folder of its own for each version, so that a cached file is never the wrong one."""
        return f"{self.name.rpartition('/')[2]}-{self.version}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where its files are laid, all in one folder."""
        return tuple(FOLDER / self.slug / PurePosixPath(file).name for file in self.files)

    @property
    def is_installed(self) -> bool:
        """Whether all of them are there."""
        return all(path.is_file() for path in self.paths)


def read_lock() -> tuple[Package, ...]:
    """What the lock file names."""
    entries = json.loads(LOCK.read_text(encoding="utf-8"))["packages"]
    return tuple(Package(**{**entry, "files": tuple(entry["files"])}) for entry in entries)


def installed() -> Iterator[Path]:
    """Every file that is there of those the lock file names."""
    return (path for package in read_lock() for path in package.paths if path.is_file())


def install(package: Package) -> None:
    """Fetch, check and lay out one package; the folder appears whole or not at all.

    Raises:
        VendorError: npm is missing or failed, or the archive is not the one that was locked.
    """
    with tempfile.TemporaryDirectory() as scratch:
        lay_out(package, _fetch(package, Path(scratch)))


def lay_out(package: Package, archive: Path, folder: Path = FOLDER) -> None:
    """Check the archive, then put the files that are used where they are served from.

    Raises:
        VendorError: it is not the one that was locked, or has not what was locked.
    """
    if not _is_locked(archive, package.integrity):
        raise VendorError(f"{package.name} {package.version} is not the archive that the lock file names")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, tarfile.open(archive) as tar:
        laid = Path(scratch) / package.slug
        laid.mkdir()
        for file in package.files:
            try:
                source = tar.extractfile(f"package/{file}")
            except KeyError:
                raise VendorError(f"{package.name} {package.version} has no {file}") from None
            assert source is not None, f"{file} is no file"
            with source, (laid / PurePosixPath(file).name).open("wb") as target:
                shutil.copyfileobj(source, target)
        final = folder / package.slug
        shutil.rmtree(final, ignore_errors=True)
        laid.rename(final)


def _fetch(package: Package, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise VendorError(
            "npm is needed to fetch third-party files and is not installed (it comes with Node.js)"
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
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise VendorError(f"npm could not fetch {package.name} {package.version}: {last[0]}")
    (archive,) = folder.glob("*.tgz")
    return archive


def _is_locked(archive: Path, integrity: str) -> bool:
    """Source of the format: W3C Subresource Integrity."""
    algorithm, _, expected = integrity.partition("-")
    digest = hashlib.new(algorithm, archive.read_bytes()).digest()
    return base64.b64encode(digest).decode() == expected


def main() -> int:
    """Install what is missing; the exit code."""
    try:
        for package in read_lock():
            if not package.is_installed:
                install(package)
            print(f"{package.name} {package.version} ({package.license})")
    except VendorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
