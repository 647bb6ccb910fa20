"""Logging with structlog: named events, as coloured lines on a terminal and as JSON elsewhere.

One JSON object per line, so that `python -m pipeline.run … 2>&1 | jq` works: log records of libraries,
warnings and unhandled exceptions are events too. Logs contain no audio, no transcript and no
tokens. The names of events are an interface: `docs/upgrading.md` lists renamed ones.

Nothing waits for the log, and nothing fails because of it. Lines are written by a thread; a line that
cannot be written, or for which there is no room, is lost and counted (`lost_lines`).
"""

import atexit
import logging
import os
import sys
import threading
import time
import warnings
from collections import deque
from typing import Any, Final, TextIO

import structlog

from pipeline.config import Log
from pipeline.errors import EXIT_BROKEN_INVARIANT, StartupError
from pipeline.system.command import describe

QUEUED_BYTES: Final = 1 << 20  # of lines that wait for the descriptor; about 5,000
FLUSH_S: Final = 1.0  # how long the end of the process waits for the last lines

events = structlog.get_logger()


class LineWriter:
    """Writes lines to a descriptor on a thread of its own; no method waits for it or fails with it.

    Attributes:
        lost: lines that were not written, or not wholly.
    """

    def __init__(self, descriptor: int, queued_bytes: int = QUEUED_BYTES) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._queued_bytes_max = queued_bytes
        self._queued_bytes = 0
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._writing = False
        self._begun = False  # a line that was written in part
        self._unreported = 0

    def write(self, text: str) -> None:
        """Queue `text`, which ends with a newline; it is lost where there is no room."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._queued_bytes + len(line) > self._queued_bytes_max or not self._start():
                self._lose(1)
                return
            self._lines.append(line)
            self._queued_bytes += len(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until everything is written or lost, for at most `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _start(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads; the next line may find one
                return False
            self._thread = thread
        return True

    def _lose(self, lines: int) -> None:
        self.lost += lines
        self._unreported += lines

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
                self._queued_bytes -= len(line)
                self._writing = True
            written = self._write(line)
            with self._changed:
                self._lose(0 if written else 1)
                unreported = self._unreported if written else 0
                self._unreported -= unreported
            if unreported:
                events.warning("log_lines_lost", lines=unreported)

    def _write(self, line: bytes) -> bool:
        """Whether the whole line was written; the rest of an earlier one is ended first."""
        rest = memoryview(b"\n" + line if self._begun else line)
        try:
            while rest:
                written = os.write(self._descriptor, rest)
                self._begun = True
                rest = rest[written:]
        except BlockingIOError:  # another process made the descriptor non-blocking: the pipe is full
            time.sleep(0.01)
            return False
        except OSError:
            return False
        self._begun = False
        return True


class _Output:
    """The log of this process: structlog's logger writes to it, `configure` decides where it goes."""

    writer: LineWriter | None = None
    is_console = False


def lost_lines() -> int:
    """Lines of the log that could not be written, since the start."""
    return 0 if _Output.writer is None else _Output.writer.lost


def flush(timeout_s: float = FLUSH_S) -> None:
    """Wait until the log is written, for at most `timeout_s`; for the end of the process."""
    if _Output.writer is not None:
        _Output.writer.flush(timeout_s)


def is_console() -> bool:
    """Whether the log goes to a person's terminal, as lines for people."""
    return _Output.is_console


def write_text(text: str) -> None:
    """Write text for a person, in order with the log; `text` ends with a newline."""
    if _Output.writer is not None:
        _Output.writer.write(text)


def configure(settings: Log, stream: TextIO | None = None) -> None:
    """Write events of level `settings.level` and above to the descriptor of `stream` (default: stderr)."""
    out = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        # Tracebacks without local variables, which may hold tokens or a transcript.
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if _Output.writer is None:
        atexit.register(flush)
    _Output.writer = writer = LineWriter(out.fileno())
    _Output.is_console = console and out.isatty()
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=True,
    )
    _include_libraries()


class _Lines:
    """The logger that structlog wraps: each rendered event is a line."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        self._writer.write(f"{message}\n")

    debug = info = warning = error = critical = exception = msg


class _LibraryRecords(logging.Handler):
    """Makes log records of libraries events; of level warning and above, because they are not ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments do not fit the library's own message
            message = str(record.msg)
        facts: dict[str, Any] = {"logger": record.name, "message": message}
        if record.exc_info and record.exc_info[1] is not None:
            facts["exc_info"] = record.exc_info
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)  # the named ones
        events.log(level, "library_message", **facts)


def error_facts(error: BaseException | None) -> dict[str, Any]:
    """An error for the log: a sentence where it is the machine's, a traceback where it may be ours."""
    if error is None:
        return {}
    sentence, exit_code = describe(error)
    ours = exit_code == EXIT_BROKEN_INVARIANT and not isinstance(error, StartupError)
    return {"exc_info": error} if ours else {"problem": sentence}


def _include_libraries() -> None:
    """Make events of what Python would otherwise print as text."""
    logging.basicConfig(handlers=[_LibraryRecords()], level=logging.WARNING, force=True)

    def unhandled_in_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None:
            name = None if failed.thread is None else failed.thread.name
            events.error("thread_failed", thread=name, **error_facts(failed.exc_value))

    def unraisable(failed: "sys.UnraisableHookArgs") -> None:
        events.error("exception_ignored", where=repr(failed.object), **error_facts(failed.exc_value))

    def unhandled(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
        events.critical("unhandled_exception", **error_facts(error))

    def warned(  # noqa: PLR0917 - as `warnings` calls it
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del file, line
        events.warning(
            "python_warning", category=category.__name__, message=str(message), where=f"{filename}:{lineno}"
        )

    threading.excepthook = unhandled_in_thread
    sys.unraisablehook = unraisable
    sys.excepthook = unhandled
    warnings.showwarning = warned
