"""How every command ends: whatever reaches the command line becomes one sentence and an exit code.

`run_command` is the only place where a command's errors are turned into output. It also provides the
standard streams that the caller closed, makes a reader that leaves (`… | head`) a quiet end, and handles
the signals that arrive before a command handles them itself.

Only the standard library and `pipeline.errors` are imported, because `web.vendor` runs before anything is
installed and a machine that trains may have nothing but PyTorch. What does not belong here: arguments
(`pipeline.cli.arguments`), and what one command does on a signal.
"""

import contextlib
import errno
import os
import resource
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TextIO

from pipeline.errors import EXIT_BROKEN_INVARIANT, EXIT_INTERRUPTED, StartupError

EXIT_FAILED: Final = 1  # the machine: a disk, a limit of the system, memory
EXIT_CLOSED_PIPE: Final = 128 + signal.SIGPIPE
EXIT_TERMINATED: Final = 128 + signal.SIGTERM
EXIT_HUNG_UP: Final = 128 + signal.SIGHUP
MOST_OF_MEMORY: Final = 0.5  # one library maps hundreds of megabytes at once
TRACEBACK: Final = "PACKET_VOICE_TRACEBACK"
_LIMITS: Final = {
    errno.EMFILE: "this process may not open more files; raise the limit with `ulimit -n 1024`",
    errno.ENFILE: "the system has no more files to open; close other programs",
}


_SHORTAGES: Final = (*_LIMITS, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT)


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived while the command was not handling it."""


def run_command(main: Callable[[], int], *, terminated: int = EXIT_TERMINATED) -> int:
    """Run `main` and return the exit code; an error is printed as one sentence on stderr.

    terminated: the exit code after a SIGTERM that `main` does not handle itself.
    """
    open_standard_streams()
    with _signals_raised() as arrived:
        try:
            exit_code = _exit_code(main)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001 - the one place for unhandled errors
            return _report(error, exit_code_after(arrived[0] if arrived else signal.SIGINT, terminated))
        return exit_code


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a command: SIGHUP, when its terminal closes, unless it is ignored (`nohup`)."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))


def exit_code_after(number: int, terminated: int) -> int:
    """The exit code after this signal, `terminated` after SIGTERM."""
    codes: dict[int, int] = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGHUP: EXIT_HUNG_UP}
    return codes.get(number, terminated)


def exit_now(exit_code: int) -> NoReturn:
    """End the process at once; what was printed is written first, if it can be."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)


@contextlib.contextmanager
def exits_on_signals(terminated: int = EXIT_TERMINATED) -> Iterator[None]:
    """End the process on a signal, without a word: for a block that only imports modules.

    An exception raised by a signal inside an import could be swallowed by the code that imports.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        os._exit(exit_code_after(number, terminated))

    with _handled(dict.fromkeys(ending_signals(), end)):
        yield


def describe(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code for an error that a command did not handle itself."""
    if isinstance(error, StartupError):
        return str(error), error.exit_code
    kind, problem = type(error).__name__, " ".join(str(error).split())
    if (of_machine := _machine_problem(error)) is not None:
        return of_machine, EXIT_FAILED
    if _is_short_of_memory():  # a library's own exception, or the consequence of one that was caught
        return f"there is not enough memory under this limit (ulimit -v): {kind}: {problem}", EXIT_FAILED
    for frame in traceback.extract_tb(error.__traceback__)[-1:]:  # where it was raised
        kind = f"{kind} at {Path(frame.filename).name}:{frame.lineno}"
    sentence = (
        f"internal error: {kind}: {problem}; with {TRACEBACK}=1 in the environment, a traceback is shown"
    )
    return sentence, EXIT_BROKEN_INVARIANT


def shortage(error: BaseException) -> str | None:
    """What the machine has too little of, if that is why this was raised; the program may go on later."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or _is_thread_start(cause):
            return _machine_problem(cause)
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            return _LIMITS.get(cause.errno) or os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return None


def _machine_problem(error: BaseException) -> str | None:
    """What the system refused, if that is what the error means."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError):
        return _system_problem(error)
    if isinstance(error, ImportError):  # installed, but it cannot be loaded here
        return f"a library cannot be loaded: {error}"
    if _is_thread_start(error):
        return "the system allows no more threads: raise the limit (ulimit -u), or free memory"
    return None


def _is_thread_start(error: BaseException) -> bool:
    """Whether the system refused a thread, for which Python has no exception of its own.

    C++'s (a library's `std::thread`) arrives as a RuntimeError with the system's words and nothing else.
    """
    if not isinstance(error, RuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    ours = bool(frames) and (frames[-1].filename, frames[-1].name) == (threading.__file__, "start")
    return ours or str(error) == os.strerror(errno.EAGAIN)


def _is_short_of_memory() -> bool:
    """Whether this process was close to the memory that it may map: then anything in it may have failed."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except (OSError, ValueError):  # another system than Linux, or no memory even for this
        return True
    peaks_kib = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak:")]
    return any(1024 * peak > limit * MOST_OF_MEMORY for peak in peaks_kib)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of any depth; any other error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed.

    Otherwise the next file or socket gets its descriptor, and what is printed ends up there.
    """
    inheritable = True
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                if not _is_open(descriptor):  # so it is the lowest free one, which open() returns
                    os.set_inheritable(os.open(os.devnull, os.O_RDWR), inheritable)
                setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's stream has none
        if reconfigure is not None and getattr(stream, "errors", None) == "strict":
            reconfigure(errors="backslashreplace")  # a file name may contain any bytes


def _exit_code(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as error:  # argparse has printed its message
        if isinstance(error.code, str):
            print_notice(error.code)
            return EXIT_FAILED
        return error.code or 0


def _report(error: BaseException, interrupted: int) -> int:
    """Print what `error` means; returns the exit code, `interrupted` after a signal."""
    causes = list(leaves(error))
    if any(isinstance(cause, BrokenPipeError) for cause in causes) and _reader_left():
        _discard(sys.stdout)
        return EXIT_CLOSED_PIPE
    cause = min(causes, key=_rank)
    if os.environ.get(TRACEBACK):
        print_notice("".join(traceback.format_exception(error)))
    _discard_unwritable(sys.stdout)
    if isinstance(cause, (Terminated, KeyboardInterrupt)):
        return interrupted
    sentence, exit_code = describe(cause)
    print_notice(sentence)
    return exit_code


def _rank(error: BaseException) -> int:
    """Which of several errors is reported: the lowest."""
    kinds = (Terminated, KeyboardInterrupt, StartupError, MemoryError, OSError, ImportError, BaseException)
    return [isinstance(error, kind) for kind in kinds].index(True)


def _system_problem(error: OSError) -> str:
    problem = _LIMITS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return problem
    where = error.filename if error.filename2 is None else f"{error.filename} → {error.filename2}"
    return f"{where}: {problem}"


def print_notice(text: str) -> None:
    """Print a line for the person on stderr, if that can be written: nothing depends on it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text.rstrip()}\n")
        sys.stderr.flush()


def _reader_left() -> bool:
    """Whether stdout is a pipe without a reader."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def _discard_unwritable(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Send the rest to /dev/null, so that the interpreter does not fail on it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _signals_raised() -> Iterator[list[signal.Signals]]:
    """Raise an exception on a signal, so that temporary files are removed; yields those that are not SIGINT.

    An event loop has a handler of its own for SIGINT, which raises where the loop can bear it. In the
    middle of its own code an exception would leave tasks running, so the others take the same way.
    """
    arrived: list[signal.Signals] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        arrived.append(signal.Signals(number))
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt) and interrupt is not signal.default_int_handler:
            interrupt(signal.SIGINT, frame)
        else:
            raise Terminated

    with _handled(dict.fromkeys(ending_signals(), terminate) | {signal.SIGINT: signal.default_int_handler}):
        yield arrived


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Handle signals in the block, except those that are ignored or handled already."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) in usual or number in _ours:
                previous[number] = signal.signal(number, handler)
                _ours.append(number)
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
            _ours.remove(number)


_ours: list[signal.Signals] = []  # handled by a block around this one
