"""The voices that sessions may have: those published with the model, and the user's own.

Published voices come as an archive of `.pt` files beside the weights. They are converted once, by the reader
that executes nothing, to safetensors in the user's cache. A user's own voice is the codes of a recording, in
a file that no other user can read.

Neighbours: `voices` reads and writes one voice; `pipeline.cli.voices` makes one of a recording.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from pipeline.errors import ConfigError, VoiceError
from pipeline.install import paths
from pipeline.models.checkpoint.voices import MAX_FILE_BYTES, read_published_voice, read_voice, write_voice
from pipeline.values import Voice

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_ARCHIVE_BYTES: Final = 256 * 2**20  # unpacked; the published one has 20 MB
_PIECE_BYTES: Final = 1 << 20
_SUFFIX: Final = ".safetensors"

Origin = Literal["published", "own"]


@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """A voice that there is. `published`: with the model; `own`: made from a recording of the user's."""

    name: str
    origin: Origin
    path: Path


def own_folder() -> Path:
    """Where the user's own voices are."""
    return paths.data_folder() / "voices"


class VoiceStore:
    """Voices by name; an own voice takes precedence over a published one of the same name."""

    def __init__(self, archive: Path | None, own: Path | None = None, cache: Path | None = None) -> None:
        """Voices from the `archive` beside the weights, if there is one, and from the folder `own`.

        `cache`: where converted voices are kept; by default in the user's cache folder.
        """
        self._archive = archive
        self._folder: Path | None = None  # of the archive's voices, once it is known
        self._temporary: Path | None = None  # where there is no place for a cache
        self._given_own = own
        self._given_cache = cache

    @property
    def _own(self) -> Path:
        return own_folder() if self._given_own is None else self._given_own

    @property
    def _cache(self) -> Path:
        return paths.cache_folder() / "voices" if self._given_cache is None else self._given_cache

    def list(self) -> list[VoiceInfo]:
        """All voices, sorted by name, the user's own first.

        Raises:
            VoiceError: the archive is damaged, or holds something else than voices.
        """
        try:
            own = [VoiceInfo(path.stem, "own", path) for path in _files(self._own)]
        except ConfigError:  # a user without a home folder has no voices of their own
            own = []
        names = {voice.name for voice in own}
        if self._archive is not None and (self._folder is None or not self._folder.is_dir()):
            self._folder = self._converted(self._archive)
        published = () if self._folder is None else _files(self._folder)
        return own + [VoiceInfo(path.stem, "published", path) for path in published if path.stem not in names]

    def read(self, name: str) -> Voice:
        """The voice with this name.

        Raises:
            VoiceError: there is none, or its file is damaged.
        """
        voices = {voice.name: voice for voice in self.list()}
        if name not in voices:
            known = ", ".join(voices) or "no voices"
            raise VoiceError(name, f"there is no such voice; there are {known}")
        try:
            return read_voice(voices[name].path)
        except VoiceError:
            if voices[name].origin == "own" or self._folder is None:
                raise
        shutil.rmtree(self._folder, ignore_errors=True)  # what was converted is damaged: the archive is not
        self.list()
        return read_voice(self._folder / voices[name].path.name)

    def add(self, name: str, voice: Voice) -> Path:
        """Keep a voice of the user's, readable by no other user; one with the same name is replaced.

        Raises:
            VoiceError: the name is not one, or the file cannot be written.
        """
        if NAME.fullmatch(name) is None:
            raise VoiceError(name, "a voice's name has letters, digits, - and _, and at most 64 of them")
        path = self._own / f"{name}{_SUFFIX}"
        try:
            self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._own, prefix=".", suffix=_SUFFIX)  # mode 0600
            os.close(handle)
            try:
                write_voice(Path(temporary), voice)
                Path(temporary).chmod(0o600)  # the writer may have made a file of its own
                Path(temporary).replace(path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise VoiceError(name, f"cannot be written ({error.strerror}: {self._own})") from None
        return path

    def remove(self, name: str) -> None:
        """Delete a voice of the user's.

        Raises:
            VoiceError: there is none with this name, or it is a published one.
        """
        for voice in self.list():
            if voice.name == name and voice.origin == "own":
                voice.path.unlink()
                return
        raise VoiceError(name, "you have no voice of that name")

    def _converted(self, archive: Path) -> Path:
        """The folder with the archive's voices as safetensors, made if it is not there."""
        try:
            digest = hashlib.sha256()
            with archive.open("rb") as file:
                content = _Bounded(file)
                while piece := content.read(_PIECE_BYTES):
                    digest.update(piece)
            cache = self._usable_cache()
            folder = cache / digest.hexdigest()[:32]
            if folder.is_dir():
                return folder
            with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary:
                whole = Path(temporary) / "voices"
                whole.mkdir()
                convert_archive(archive, whole)
                try:
                    whole.rename(folder)
                except OSError:
                    if not folder.is_dir():  # another process was first
                        raise
        except OSError as error:
            raise VoiceError(archive.name, f"cannot be unpacked ({error})") from None
        return folder

    def _usable_cache(self) -> Path:
        """The cache, or a temporary folder of this process where it cannot be written.

        A model can be served where nothing can be kept: by a user without a home folder, or read-only.
        """
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            if os.access(self._cache, os.W_OK):
                return self._cache
        except (OSError, ConfigError):
            pass
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="packet-voice-"))
            weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        return self._temporary


def convert_archive(archive: Path, folder: Path) -> None:
    """Write each `.pt` file of a `.tgz` to `folder` as safetensors; nothing else of it is written.

    Members are read one by one into a file of our own name: no path, link or mode of the archive matters.

    Raises:
        VoiceError: it is no archive, holds no voice, too many or too large ones, or one that is damaged.
    """
    names = set()
    for name, piece in _voice_files(archive, folder):
        if name in names:
            raise VoiceError(archive.name, f"it holds {name} twice")
        names.add(name)
        write_voice(folder / f"{name}{_SUFFIX}", read_published_voice(piece))
    if not names:
        raise VoiceError(archive.name, "it holds no voices (.pt files)")


def _voice_files(archive: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each voice's name and a temporary copy of its file."""
    try:
        with gzip.open(archive) as file, tarfile.open(fileobj=_Bounded(file), mode="r|") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isreg() or path.suffix != ".pt" or path.name.startswith("."):
                    continue
                if NAME.fullmatch(path.stem) is None or member.size > MAX_FILE_BYTES:
                    raise VoiceError(archive.name, f"it holds {path.name!r}, which is no voice")
                content = tar.extractfile(member)
                assert content is not None, "a regular member has content"
                with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=f"-{path.name}") as copy:
                    shutil.copyfileobj(content, copy)
                    copy.flush()
                    yield path.stem, Path(copy.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise VoiceError(archive.name, f"it is no archive of voices ({error})") from None


class _Bounded(io.RawIOBase):
    """A file that fails beyond `MAX_ARCHIVE_BYTES`, whatever its reader wants to skip or keep."""

    def __init__(self, file: gzip.GzipFile | IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._left_bytes = MAX_ARCHIVE_BYTES

    def read(self, size: int = -1, /) -> bytes:
        """The next `size` bytes."""
        content = self._file.read(size)
        self._left_bytes -= len(content)
        if self._left_bytes < 0:
            raise OSError("it is too large to be an archive of voices")
        return content


def _files(folder: Path) -> list[Path]:
    found = folder.glob(f"*{_SUFFIX}")
    return sorted(path for path in found if NAME.fullmatch(path.stem) and path.is_file())
