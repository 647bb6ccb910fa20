"""Input files of any kind and any content: their errors are OSError and ValueError, and nothing is endless.

A device such as /dev/zero has no end, and JSON may be nested without one, which Python reports as a
RecursionError. Only the standard library is imported. What does not belong here: formats, and sentences.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

FILE_BYTES: Final = 1 << 26  # of a file that is read at once: the longest index of a checkpoint is 10 MB
TOKEN_FILE_BYTES: Final = 1 << 16


def read_text(path: Path, at_most_bytes: int = FILE_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it cannot be read, or has more than `at_most_bytes`.
        ValueError: it is something else.
    """
    with path.open("rb") as file:
        content = file.read(at_most_bytes + 1)
    if len(content) > at_most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content.decode()


def read_bytes(path: Path, at_most_bytes: int) -> bytes:
    """The content of a regular file, which never blocks: another kind may have no writer, or no end.

    Raises:
        OSError: it cannot be read, is of another kind, or has more than `at_most_bytes`.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        content = file.read(at_most_bytes + 1)
    if len(content) > at_most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """The value in a text.

    Raises:
        ValueError: it is not JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
