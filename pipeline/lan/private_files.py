"""What is kept here nobody else can read, and it is there whole or not at all.

A folder that only its owner enters, files that only their owner reads, written beside their place
and moved into it. Two servers that start at once take turns.
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PRIVATE_FOLDER: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_PUBLIC_FILE: Final = 0o644
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Hold the folder, made where it is missing, against other processes.

    Raises:
        OSError: it cannot be made or written.
        PermissionError: others may write to it, and so could put a key of theirs into it.
    """
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    if folder.stat().st_mode & _OTHERS_WRITE:
        raise PermissionError(errno.EPERM, "others may write to it", str(folder))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read(path: Path, *, public: bool = False) -> bytes | None:
    """What the file holds, None where there is none; what others could read is closed to them."""
    try:
        with path.open("rb") as file:
            if not public and os.fstat(file.fileno()).st_mode & _OTHERS:
                os.fchmod(file.fileno(), _PRIVATE_FILE)
            return file.read()
    except FileNotFoundError:
        return None


def write(path: Path, content: bytes, *, public: bool = False) -> None:
    """Put `content` in the place of whatever is there; after a crash it is the one or the other."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if public:
                os.fchmod(file.fileno(), _PUBLIC_FILE)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
