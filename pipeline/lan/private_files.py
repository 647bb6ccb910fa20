"""Files that only their owner can read, written atomically in a locked folder.

A file is written under a temporary name and then renamed. The lock makes servers that start at the same
time take turns.
"""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.system.inputs import read_stream

_PRIVATE_FOLDER: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_PUBLIC_FILE: Final = 0o644
_FILE_BYTES: Final = 1 << 20
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder if it is missing and lock it against other processes.

    Raises:
        OSError: it cannot be created or written.
        PermissionError: other users can write to it, so they could plant a key of their own.
    """
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    if folder.stat().st_mode & _OTHERS_WRITE:
        raise PermissionError(errno.EPERM, "other users can write to it", str(folder))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read(path: Path, *, public: bool = False) -> bytes | None:
    """The content of the file, None if there is none. Unless `public`, remove the access of other users.

    Raises:
        OSError: it cannot be read, is a pipe, which would be waited for, or is far too long.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISFIFO(mode):
                raise OSError(errno.EINVAL, f"{path.name} is a pipe", str(path))
            if not public and stat.S_ISREG(mode) and mode & _OTHERS:  # a device is everybody's
                os.fchmod(file.fileno(), _PRIVATE_FILE)
            return read_stream(file, _FILE_BYTES)
    except FileNotFoundError:
        return None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def write(path: Path, content: bytes, *, public: bool = False) -> None:
    """Replace the file atomically: after a crash it holds either the old or the new content."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if public:
                os.fchmod(file.fileno(), _PUBLIC_FILE)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
