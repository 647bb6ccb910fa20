"""Input files of any kind and any content: their errors are OSError and ValueError, and nothing is endless.

A device such as /dev/zero has no end, and JSON may be nested without one, which Python reports as a
RecursionError. Only the standard library is imported. What does not belong here: formats, and sentences.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

FILE_BYTES: Final = 1 << 26  # of a file that is read at once: the longest index of a checkpoint is 10 MB
TOKEN_FILE_BYTES: Final = 1 << 16


def read_text(path: Path, at_most_bytes: int = FILE_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it cannot be read, or has more than `at_most_bytes`.
        ValueError: it is something else.
    """
    return read_bytes(path, at_most_bytes).decode()


def read_bytes(path: Path, at_most_bytes: int = FILE_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, or has more than `at_most_bytes`; with its name.
    """
    try:
        with path.open("rb") as file:
            return read_stream(file, at_most_bytes)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def named_in_utf8(path: str | Path) -> Iterator[str]:
    """A name by which a native library can open the file in the block: on Linux a name may be any bytes.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with Path(path).open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def read_stream(file: BinaryIO, at_most_bytes: int = FILE_BYTES) -> bytes:
    """What is left of an open file, or of a pipe.

    Raises:
        OSError: it cannot be read, or has more than `at_most_bytes`.
    """
    content = file.read(at_most_bytes + 1)
    if len(content) > at_most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
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
