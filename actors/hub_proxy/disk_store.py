"""Cached files on disk: a file is in the store whole and verified, or not at all, even after a crash.

Each cached file is one file on disk: a block of `HEAD_BYTES` with its metadata, then its content. It
is downloaded under another name and renamed once it is complete and verified, so there is no index
that could disagree with it. A download that was interrupted keeps its other name, and is resumed if
the hub still has the same file. Each process compares the content of a file with its SHA-256 before it
uses the file for the first time; what is damaged is removed. The access time is when a file was last
used, and the modification time when the hub was last known to have it; both are set here, not by the
file system.

Several servers may share a folder: a partial file is locked by its writer, and a file that is being
read stays readable after it was evicted.

Everything here blocks; `cache` runs it on threads.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from actors.hub_proxy.request import FileRef

HEAD_BYTES: Final = 4096
HASHED_BYTES: Final = 16 * 2**20  # of an interrupted download, in one call
_FORMAT: Final = 1
_PARTIAL: Final = ".part"
# Nothing else in the folder is ever touched, in case it also holds other files.
_OURS: Final = re.compile(r"(?P<name>[0-9a-f]{64})(?:\.[0-9a-f]{32})?(?:\.part)?")
_ETAG: Final = re.compile(r"[\x21\x23-\x7e]{1,200}")  # RFC 9110 §8.8.3, ASCII only
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """A file as the hub describes it. The `etag` of a large one is the SHA-256 of its content."""

    size_bytes: int
    etag: str | None
    commit: str | None


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A whole file. At `validated_s` (Unix time) it was the one that the hub has."""

    metadata: FileMetadata
    validated_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store holds, and how many files were evicted to get there."""

    files: int
    size_bytes: int
    evicted: int = 0


class PartialFile:
    """A file being downloaded, from the start or from where an earlier attempt stopped.

    Attributes:
        descriptor: may be read meanwhile.
        metadata: of the file that it is a part of; None if there is nothing yet.
        present_bytes: of the content.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Open and lock it; if another process is writing it, begin a new one under another name.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._target = folder / name
        self._path = folder / f"{name}{_PARTIAL}"
        descriptor = _lock(self._path)
        if descriptor is None:
            self._path = folder / f"{name}.{uuid4().hex}{_PARTIAL}"
            descriptor = _lock(self._path)
            assert descriptor is not None  # its name is random
        self.descriptor = descriptor
        self.metadata = _read_head(self.descriptor)
        present_bytes = os.fstat(self.descriptor).st_size - HEAD_BYTES
        whole = self.metadata is not None and present_bytes <= self.metadata.size_bytes
        self.present_bytes = max(0, present_bytes) if whole else 0
        self._digest = hashlib.sha256()
        self._digested_bytes = 0

    def start(self, ref: FileRef, metadata: FileMetadata) -> None:
        """Begin from the first byte, discarding what was there."""
        head = json.dumps({"format": _FORMAT, "file": str(ref), **asdict(metadata)}).encode()
        assert len(head) < HEAD_BYTES  # an address is short, and so is an ETag
        os.ftruncate(self.descriptor, 0)
        _write(self.descriptor, head.ljust(HEAD_BYTES - 1) + b"\n", 0)
        self.metadata, self.present_bytes = metadata, 0
        self._digest, self._digested_bytes = hashlib.sha256(), 0

    def hash_existing(self) -> bool:
        """Hash some of what an earlier attempt left; True once all of it is hashed."""
        left_bytes = self.present_bytes - self._digested_bytes
        piece = os.pread(self.descriptor, min(HASHED_BYTES, left_bytes), HEAD_BYTES + self._digested_bytes)
        self._digest.update(piece)
        self._digested_bytes += len(piece)
        return not piece or self._digested_bytes == self.present_bytes

    def append(self, data: bytes) -> None:
        """Write the next bytes of the content."""
        _write(self.descriptor, data, HEAD_BYTES + self.present_bytes)
        if self._digested_bytes == self.present_bytes:
            self._digest.update(data)
            self._digested_bytes += len(data)
        self.present_bytes += len(data)

    def is_valid(self) -> bool:
        """Whether its length is the one that the hub described and, where the ETag is one, its SHA-256."""
        assert self.metadata is not None
        if self.present_bytes != self.metadata.size_bytes:
            return False
        return not self._is_hashed or self._digest.hexdigest() == self.metadata.etag

    def commit(self) -> None:
        """Move it into the store, safely against loss of power, with the SHA-256 of its content."""
        if self._digested_bytes == self.present_bytes:
            head = json.loads(os.pread(self.descriptor, HEAD_BYTES, 0)) | {"sha256": self._digest.hexdigest()}
            _write(self.descriptor, json.dumps(head).encode().ljust(HEAD_BYTES - 1) + b"\n", 0)
        os.fsync(self.descriptor)
        self._path.rename(self._target)

    def discard(self) -> None:
        """Delete it."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock and close it; without any content it is deleted."""
        if not self.present_bytes and self._path.exists():
            self.discard()
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # readers have copies of the descriptor
        os.close(self.descriptor)

    @property
    def _is_hashed(self) -> bool:
        etag = self.metadata.etag if self.metadata else None
        return etag is not None and _SHA256.fullmatch(etag) is not None


class DiskStore:
    """The files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: dict[str, int] = {}  # inode of each file whose content this process has checked

    def find(self, name: str) -> CachedFile | None:
        """The file, recorded as used now; None if it is not there, or is damaged and therefore removed."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY)
        except OSError:
            return None
        try:
            metadata, stat = _read_head(descriptor), os.fstat(descriptor)
            whole = metadata is not None and stat.st_size == HEAD_BYTES + metadata.size_bytes
            if whole and self._verified.get(name) != stat.st_ino:
                whole = _has_its_content(descriptor)
        except OSError:
            whole = False
        finally:
            os.close(descriptor)
        if metadata is None or not whole:
            self._verified.pop(name, None)
            self._remove(name)
            return None
        self._verified[name] = stat.st_ino
        self._mark(name, validated_ns=stat.st_mtime_ns)
        return CachedFile(metadata, stat.st_mtime_ns / 1e9)

    def mark_validated(self, name: str) -> None:
        """The hub still has this file: record that, with the time."""
        self._mark(name, validated_ns=time.time_ns())

    def open(self, name: str) -> tuple[int, FileMetadata]:
        """A descriptor to read the file by, for the caller to close, and its metadata.

        Raises:
            OSError: it is not there any more.
        """
        descriptor = os.open(self._folder / name, os.O_RDONLY)
        metadata = _read_head(descriptor)
        if metadata is None:
            os.close(descriptor)
            raise FileNotFoundError(name)
        return descriptor, metadata

    def open_partial(self, name: str) -> PartialFile:
        """A file to be downloaded, or to be resumed.

        Raises:
            OSError: the folder cannot be written.
        """
        return PartialFile(self._folder, name)

    def evict(
        self, room_bytes: int, *, downloading: Collection[str] = (), in_use: Collection[str] = ()
    ) -> Usage:
        """Remove the files used longest ago, until no more than `room_bytes` are held.

        Files of `downloading` that are partial are neither counted nor removed; those of `in_use`
        are counted and stay.
        """
        held: list[tuple[int, int, Path, str]] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in self._folder.iterdir():
                match = _OURS.fullmatch(path.name)
                if match is None or (path.suffix == _PARTIAL and match["name"] in downloading):
                    continue
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    stat = path.stat()
                    held.append((stat.st_atime_ns, stat.st_size, path, match["name"]))
        size_bytes, files, evicted = sum(size for _, size, _, _ in held), len(held), 0
        for _, file_bytes, path, name in sorted(held):
            if size_bytes <= room_bytes:
                break
            if name in in_use or not _is_unlocked(path):
                continue
            path.unlink(missing_ok=True)
            size_bytes, files, evicted = size_bytes - file_bytes, files - 1, evicted + 1
        return Usage(files, size_bytes, evicted)

    def _mark(self, name: str, *, validated_ns: int) -> None:
        with contextlib.suppress(OSError):  # gone meanwhile, or a read-only folder
            os.utime(self._folder / name, ns=(time.time_ns(), validated_ns))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()


class NoStore(DiskStore):
    """Where there is no place for a store, because of `problem`: nothing can be read or written."""

    def __init__(self, problem: str) -> None:
        super().__init__(Path(os.devnull) / "hub")
        self._problem = problem

    def open_partial(self, _name: str) -> PartialFile:
        """See `DiskStore.open_partial`."""
        raise OSError(errno.ENOTDIR, self._problem)


def _lock(path: Path) -> int | None:
    """A locked descriptor of the file at `path`, created if necessary; None if another process has it."""
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
        os.close(descriptor)  # between the two calls it was committed, or removed


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_head(descriptor: int) -> FileMetadata | None:
    """The metadata in the file; None where it was not written by this format, or is damaged."""
    head = _parse_head(descriptor)
    size_bytes, etag, commit = head.get("size_bytes"), head.get("etag"), head.get("commit")
    is_ours = head.get("format") == _FORMAT and isinstance(head.get("file"), str)
    if not is_ours or type(size_bytes) is not int or size_bytes < 0:
        return None
    if not (_is_none_or(etag, _ETAG) and _is_none_or(commit, _COMMIT)):
        return None
    return FileMetadata(size_bytes, etag, commit)


def _parse_head(descriptor: int) -> dict[str, Any]:
    """The fields of a head; empty where it is none."""
    try:
        head = json.loads(os.pread(descriptor, HEAD_BYTES, 0))
    except (ValueError, RecursionError):
        return {}
    return head if isinstance(head, dict) else {}


def _is_none_or(value: object, pattern: re.Pattern[str]) -> bool:
    return value is None or (isinstance(value, str) and pattern.fullmatch(value) is not None)


def _has_its_content(descriptor: int) -> bool:
    """Whether the content has the SHA-256 that was written when it was complete, or that is its ETag."""
    head = _parse_head(descriptor)
    expected = head.get("sha256") or head.get("etag")
    if not (isinstance(expected, str) and _SHA256.fullmatch(expected)):
        return True
    digest, offset = hashlib.sha256(), HEAD_BYTES
    while piece := os.pread(descriptor, HASHED_BYTES, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest() == expected


def _is_unlocked(path: Path) -> bool:
    """Whether no process is writing the file."""
    if path.suffix != _PARTIAL:
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
