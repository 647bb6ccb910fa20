"""A file in the store is whole or it is not there, whenever the process may have died.

Each file is one file on disk: a block of `HEAD_BYTES` that says what it is, then its content. It
grows under another name and is renamed once all of it is written and right, so there is no second
place that could disagree. What was interrupted keeps that other name, and is gone on with when the
hub still has the same file. When a file was last used is its access time, and when it was last found
to be current its modification time, set here and not by the file system.

Several servers may share a folder: a file that grows is locked by who writes it, and one that is
read stays readable after it was removed.

Everything here blocks; `shelf` calls it on threads.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from actors.hub_proxy.request import FileRef

HEAD_BYTES: Final = 4096
HASHED_BYTES: Final = 16 * 2**20  # of what was there already, in one call
_FORMAT: Final = 1
_GROWING: Final = ".part"
# Nothing else in the folder is ever touched, should somebody point us at one with things of their own.
_OURS: Final = re.compile(r"(?P<name>[0-9a-f]{64})(?:\.[0-9a-f]{32})?(?:\.part)?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What the hub says of a file. A large one's `etag` is the SHA-256 of its content."""

    size_bytes: int
    etag: str | None
    commit: str | None


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A whole file; the hub last said at `checked_s` (Unix time) that it is the current one."""

    described: FileMetadata
    checked_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store holds after room was made; `removed` files had to go for it."""

    files: int
    size_bytes: int
    removed: int = 0


class PartialFile:
    """A file on its way into the store, from a new beginning or from where an earlier attempt stopped."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open it, and lock it; one that another process is writing is begun anew, under a name of its own.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._target = folder / name
        self._path = folder / f"{name}{_GROWING}"
        descriptor = _lock(self._path)
        if descriptor is None:
            self._path = folder / f"{name}.{uuid4().hex}{_GROWING}"
            descriptor = _lock(self._path)
            assert descriptor is not None  # nobody else knows its name
        self.descriptor = descriptor
        self.described = _read_head(self.descriptor)
        present_bytes = os.fstat(self.descriptor).st_size - HEAD_BYTES
        whole = self.described is not None and present_bytes <= self.described.size_bytes
        self.present_bytes = max(0, present_bytes) if whole else 0
        self._digest = hashlib.sha256()
        self._digested_bytes = 0

    def begin(self, wanted: FileRef, described: FileMetadata) -> None:
        """From the first byte, whatever was there."""
        head = json.dumps({"format": _FORMAT, "file": str(wanted), **asdict(described)}).encode()
        assert len(head) < HEAD_BYTES  # an address is short, and so is an ETag
        os.ftruncate(self.descriptor, 0)
        _write(self.descriptor, head.ljust(HEAD_BYTES - 1) + b"\n", 0)
        self.described, self.present_bytes = described, 0
        self._digest, self._digested_bytes = hashlib.sha256(), 0

    def catch_up(self) -> bool:
        """Hash some of what an earlier attempt left; whether all of it is hashed now."""
        left_bytes = self.present_bytes - self._digested_bytes
        piece = os.pread(self.descriptor, min(HASHED_BYTES, left_bytes), HEAD_BYTES + self._digested_bytes)
        self._digest.update(piece)
        self._digested_bytes += len(piece)
        return not piece or self._digested_bytes == self.present_bytes

    def append(self, data: bytes) -> None:
        """Write what follows."""
        _write(self.descriptor, data, HEAD_BYTES + self.present_bytes)
        self.present_bytes += len(data)
        if self._is_hashed:
            self._digest.update(data)
            self._digested_bytes += len(data)

    def is_right(self) -> bool:
        """Whether it is the file that the hub described, by length and, where that was told, by content."""
        assert self.described is not None
        if self.present_bytes != self.described.size_bytes:
            return False
        return not self._is_hashed or self._digest.hexdigest() == self.described.etag

    def keep(self) -> None:
        """From now on it is in the store; power may fail."""
        os.fsync(self.descriptor)
        self._path.rename(self._target)

    def drop(self) -> None:
        """Nothing of it is worth keeping."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; an attempt that was given up before there was any content leaves nothing."""
        if not self.present_bytes and self._path.exists():
            self.drop()
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # who still reads it has a copy of the descriptor
        os.close(self.descriptor)

    @property
    def _is_hashed(self) -> bool:
        etag = self.described.etag if self.described else None
        return etag is not None and _SHA256.fullmatch(etag) is not None


class DiskStore:
    """The files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> CachedFile | None:
        """The file, noted as used now; None if it is not there, or damaged and therefore removed."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY)
        except OSError:
            return None
        try:
            described, stat = _read_head(descriptor), os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if described is None or stat.st_size != HEAD_BYTES + described.size_bytes:
            self._remove(name)
            return None
        self._mark(name, checked_ns=stat.st_mtime_ns)
        return CachedFile(described, stat.st_mtime_ns / 1e9)

    def note_current(self, name: str) -> None:
        """The hub has just said that this is still the file."""
        self._mark(name, checked_ns=time.time_ns())

    def open(self, name: str) -> tuple[int, FileMetadata]:
        """A descriptor to read the file by, and what it is.

        Raises:
            OSError: it is not there any more.
        """
        descriptor = os.open(self._folder / name, os.O_RDONLY)
        described = _read_head(descriptor)
        if described is None:
            os.close(descriptor)
            raise FileNotFoundError(name)
        return descriptor, described

    def grow(self, name: str) -> PartialFile:
        """A file to be written.

        Raises:
            OSError: the folder cannot be written.
        """
        return PartialFile(self._folder, name)

    def make_room(
        self, room_bytes: int, *, growing: Collection[str] = (), read: Collection[str] = ()
    ) -> Usage:
        """Remove what was used longest ago, until no more than `room_bytes` are held.

        `growing` are on their way in and not counted, `read` are counted and stay.
        """
        held: list[tuple[int, int, Path, str]] = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                match = _OURS.fullmatch(path.name)
                if match is None or (path.suffix == _GROWING and match["name"] in growing):
                    continue
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    stat = path.stat()
                    held.append((stat.st_atime_ns, stat.st_size, path, match["name"]))
        size_bytes, files, removed = sum(size for _, size, _, _ in held), len(held), 0
        for _, file_bytes, path, name in sorted(held):
            if size_bytes <= room_bytes:
                break
            if name in read or not _is_free(path):
                continue
            path.unlink(missing_ok=True)
            size_bytes, files, removed = size_bytes - file_bytes, files - 1, removed + 1
        return Usage(files, size_bytes, removed)

    def _mark(self, name: str, *, checked_ns: int) -> None:
        with contextlib.suppress(OSError):  # gone meanwhile, or a folder that may only be read
            os.utime(self._folder / name, ns=(time.time_ns(), checked_ns))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()


def _lock(path: Path) -> int | None:
    """A descriptor of the file at `path`, made if need be, that is ours alone to write; None if another's."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # between the two calls it became whole, or was removed


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_head(descriptor: int) -> FileMetadata | None:
    """What the file says of itself; None where that is not what we would have written."""
    try:
        head = json.loads(os.pread(descriptor, HEAD_BYTES, 0))
        if head.pop("format") != _FORMAT or not head.pop("file"):
            return None
        return FileMetadata(**head)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_free(path: Path) -> bool:
    """Whether no process is writing it."""
    if path.suffix != _GROWING:
        return True
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
