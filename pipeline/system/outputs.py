"""Output files that are made whole or not at all: written beside their place, moved into it when complete.

An earlier file of that name stays as it was until then, and an input is never written over. A device or a
pipe has no earlier content and is written to directly. What does not belong here: formats.
"""

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pipeline.errors import OutputError

STDOUT: Final = "-"
_NEW_FILE: Final = 0o666  # less the umask


class OutputFile:
    """A context manager around writing `path`; without `commit`, everything is as before.

    Attributes:
        path: where to write: a new file beside the target, or the target itself where it is a device or a
            pipe (`is_stream`).

    Raises:
        OutputError: the file cannot be written, or is one of `inputs`.
    """

    def __init__(self, path: str | Path, *, inputs: Iterable[str | Path | None] = ()) -> None:
        self._shown = str(path)
        self._target = Path(path)
        with self._failing():
            self.is_stream = self._target.exists() and not self._target.is_file()
            if not self.is_stream:  # a link stays a link; one to a pipe of this process leads nowhere
                self._target = self._target.resolve()
            for source in inputs:
                if source is not None and Path(source).exists() and self._is(Path(source)):
                    raise OutputError(self._shown, "is also the input; write to another file")
            if self.is_stream and self._target.is_dir():
                raise OutputError(self._shown, "is a folder")
            if not self._target.parent.is_dir():
                raise OutputError(self._shown, f"the folder {Path(self._shown).parent} does not exist")
            self.path = self._target if self.is_stream else self._create()

    def commit(self) -> None:
        """Move the file, which is complete, into place.

        Raises:
            OutputError: it cannot be written.
        """
        if self.is_stream:
            return
        with self._failing():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self.path.replace(self._target)

    def discard(self) -> None:
        """Remove what was written, if it was not committed."""
        if not self.is_stream:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _is(self, source: Path) -> bool:
        return self._target.exists() and self._target.samefile(source)

    def _create(self) -> Path:
        mode = stat.S_IMODE(self._target.stat().st_mode) if self._target.exists() else None
        if mode is not None and not os.access(self._target, os.W_OK):
            raise OutputError(self._shown, "may not be written")
        beside = self._target.with_name(f".{uuid.uuid4().hex}{self._target.suffix}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _NEW_FILE)
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        return beside

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(self._shown, f"cannot be written ({error.strerror})") from None
        except (ValueError, RuntimeError):  # a null character in the name, or links in a circle
            raise OutputError(repr(self._shown), "is not the name of a file") from None


class OutputFolder:
    """A context manager around making the folder `path`; without `commit`, everything is as before.

    Attributes:
        path: where to write: a new folder beside the target.

    Raises:
        OutputError: the folder cannot be made, or there is something in it already.
    """

    def __init__(self, path: Path) -> None:
        self._target = path
        try:
            if path.exists() and not path.is_dir():
                raise OutputError(str(path), "is a file")
            if path.is_dir() and any(path.iterdir()):
                raise OutputError(str(path), "already exists and is not empty")
            resolved = path.absolute()
            resolved.parent.mkdir(parents=True, exist_ok=True)
            self.path = resolved.with_name(f".{uuid.uuid4().hex}")
            self.path.mkdir()
        except OSError as error:
            raise OutputError(str(path), f"cannot be made ({error.strerror})") from None

    def commit(self) -> None:
        """Move the folder, which is complete, into place.

        Raises:
            OutputError: there is something in its place by now.
        """
        try:
            self.path.rename(self._target)
        except OSError as error:
            raise OutputError(str(self._target), f"cannot be made ({error.strerror})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def write_whole(path: str | Path, content: bytes, *, inputs: Iterable[str | Path | None] = ()) -> None:
    """Write a file at once.

    Raises:
        OutputError: it cannot be written.
    """
    with OutputFile(path, inputs=inputs) as output:
        try:
            output.path.write_bytes(content)
        except OSError as error:
            raise OutputError(str(path), f"cannot be written ({error.strerror})") from None
        output.commit()
