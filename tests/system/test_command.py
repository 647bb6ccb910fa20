"""Whatever reaches a command line is one sentence and an exit code, for every command."""

import errno
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import trio
import trio.testing

from pipeline.errors import EXIT_BROKEN_INVARIANT, EXIT_INTERRUPTED, ConfigError
from pipeline.system.command import (
    EXIT_CLOSED_PIPE,
    EXIT_FAILED,
    EXIT_HUNG_UP,
    EXIT_TERMINATED,
    TRACEBACK,
    run_command,
)

ROOT = Path(__file__).parents[2]


def command_that_raises(error: BaseException) -> int:
    def main() -> int:
        raise error

    return run_command(main)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ConfigError("a.b", "wrong"), 2, "a.b: wrong"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), EXIT_FAILED, "/x: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), EXIT_FAILED, "ulimit -n"),
        (OSError("without a number"), EXIT_FAILED, "without a number"),
        (MemoryError(), EXIT_FAILED, "there is not enough memory"),
        (ExceptionGroup("a", [ExceptionGroup("b", [ConfigError("k", "bad")])]), 2, "k: bad"),
        (ExceptionGroup("a", [ValueError("one"), ConfigError("k", "bad")]), 2, "k: bad"),
        (KeyError("name\nof two lines"), EXIT_BROKEN_INVARIANT, "internal error: KeyError"),
        (SystemExit("text"), EXIT_FAILED, "text"),
    ],
)
def test_an_error_is_one_sentence_and_its_exit_code(
    capfd: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    """In a group, the error that the user can fix is the one to be told."""
    assert command_that_raises(error) == code
    printed = capfd.readouterr().err
    assert sentence in printed
    assert len(printed.splitlines()) == 1


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """SIGINT is what it is for a command in a terminal; in the background of a script it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def wait_in_tasks(depth: int) -> None:
    """A tree of tasks that wait."""
    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(wait_in_tasks, depth - 1)
        await trio.sleep_forever()


async def signalled_among_tasks(number: signal.Signals) -> None:
    """Get the signal in the middle of the event loop's own code."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_in_tasks, 3)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.current_trio_token().run_sync_soon(signal.raise_signal, number)


@pytest.mark.parametrize("place", ["plain", "tasks"])
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGTERM, EXIT_TERMINATED), (signal.SIGHUP, EXIT_HUNG_UP)],
)
def test_a_signal_is_an_exit_code_without_a_word(
    capfd: pytest.CaptureFixture[str], number: signal.Signals, code: int, place: str
) -> None:
    """The user knows what happened; an event loop ends its tasks first, wherever the signal finds it."""

    def main() -> int:
        if place == "tasks":
            trio.run(signalled_among_tasks, number)
        else:
            signal.raise_signal(number)
        return 0

    gc.collect()  # of what other tests left, too
    capfd.readouterr()
    assert run_command(main) == code
    gc.collect()  # a nursery that was left alone complains when it is freed
    assert capfd.readouterr().err == ""


def test_a_traceback_is_shown_on_request(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug can be reported in full."""
    monkeypatch.setenv(TRACEBACK, "1")
    command_that_raises(KeyError("name"))
    assert "Traceback" in capfd.readouterr().err


FULL = """
import mmap
from pipeline.system.command import run_command

held = mmap.mmap(-1, 600 << 20)

def main():
    raise KeyError("a library's")

raise SystemExit(run_command(main))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no such limit is enforced here")
@pytest.mark.parametrize(
    ("limit_kib", "code", "sentence"),
    [
        ("1000000", EXIT_FAILED, "there is not enough memory"),
        ("unlimited", EXIT_BROKEN_INVARIANT, "internal error"),
    ],
)
def test_what_fails_for_lack_of_memory_is_told_as_that(limit_kib: str, code: int, sentence: str) -> None:
    """Whatever exception a library makes of it: the process was close to what it may map."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -v {limit_kib}; exec "$0" -c "$1"', sys.executable, FULL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", *arguments]
    # Without a buffer, writing would fail where flushing should.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, cwd=ROOT, env=buffered, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize(
    "command",
    [
        ("pipeline", "--help"),
        ("pipeline", "config-reference"),
        ("pipeline", "weights", "inspect", "--config", "configs/tiny"),
    ],
)
def test_a_reader_that_leaves_is_a_quiet_end(command: tuple[str, ...]) -> None:
    """`… | true` prints nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*command, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (EXIT_CLOSED_PIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
@pytest.mark.parametrize("command", ["config-reference", "--help"])  # more than a buffer holds, and less
def test_output_that_does_not_fit_is_a_sentence(command: str) -> None:
    """What was printed is not complete, and the exit code says so."""
    with Path("/dev/full").open("wb") as full:
        done = run("pipeline", command, stdout=full)
    assert done.returncode == EXIT_FAILED
    assert done.stderr.decode() == f"{os.strerror(errno.ENOSPC)}\n"


CLOSED = [" ".join(some) for count in (1, 2, 3) for some in combinations(("<&-", ">&-", "2>&-"), count)]


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_do_not_matter(closed: str, tmp_path: Path) -> None:
    """What is printed goes nowhere, and into no file that the command writes."""
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/reference/configuration.md").read_text())
    before = page.read_text()
    command = f"{sys.executable} -m pipeline config-reference --write {page} {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert page.read_text() == before


@pytest.mark.parametrize("seen", ["msgspec", "numpy", "mlx.core", "trio", "quart"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 129)]
)
def test_a_signal_while_the_server_starts_is_a_quiet_end(number: int, code: int, seen: str) -> None:
    """Whatever is being imported, the exit code is that of the same signal later on."""
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.run", "--config", "configs/tiny"]
    with subprocess.Popen(
        [*command, "--set", "server.port=0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip() == seen:
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in rest


@pytest.mark.parametrize("module", ["pipeline", "pipeline.run"])
def test_an_interrupt_before_any_of_that_is_a_quiet_end_too(module: str) -> None:
    """Nothing has been imported that could handle it."""
    command = [sys.executable, "-X", "importtime", "-m", module]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip() == "difflib":  # the first import of `pipeline.errors`
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode in (-signal.SIGINT, EXIT_INTERRUPTED)
    assert "Traceback" not in rest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 129)])
def test_a_signal_between_the_imports_and_the_server_is_a_quiet_end(
    tmp_path: Path, number: int, code: int
) -> None:
    """While a config is opened, or weights are made."""
    fifo = tmp_path / "config.json"
    os.mkfifo(fifo)  # opening the config waits for the other end
    command = [sys.executable, "-m", "pipeline.run", "--config", str(fifo)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        with fifo.open("wb"):  # it is reading now
            process.send_signal(number)
            assert process.wait(timeout=120) == code
        assert process.stderr is not None
        assert process.stderr.read() == b""


WRITING = """
import signal, sys
import numpy as np
from pipeline.audio.sound_file import SoundWriter
from pipeline.system.command import run_command

def main():
    with SoundWriter(sys.argv[1]) as out:
        out.write(np.zeros(1920, np.float32))
        signal.raise_signal(signal.SIGHUP)
        out.commit()
    return 0

raise SystemExit(run_command(main))
"""


@pytest.mark.parametrize("ignored", [False, True], ids=["closed", "nohup"])
def test_a_terminal_that_is_closed_leaves_no_output_in_part(tmp_path: Path, *, ignored: bool) -> None:
    """Nor a temporary file beside it; a command started with nohup goes on."""
    out = tmp_path / "out.wav"
    prefix = "trap '' HUP; " if ignored else ""
    command = ["/bin/sh", "-c", f'{prefix}exec "$@"', "sh", sys.executable, "-c", WRITING, str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.stderr == b""
    assert (done.returncode, list(tmp_path.iterdir())) == ((0, [out]) if ignored else (129, []))


SWALLOWING = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
    sum(range(1000))
except BaseException:
    print("swallowed")
"""
IMPORTING = """
from pipeline.system.command import exits_on_signals, run_command

def main():
    with exits_on_signals(terminated=0):
        import swallowing
    return 5

raise SystemExit(run_command(main))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 0), ("SIGHUP", 129)])
def test_no_import_can_swallow_a_signal(name: str, code: int, tmp_path: Path) -> None:
    """Code that imports something optional may catch whatever is raised."""
    (tmp_path / "swallowing.py").write_text(SWALLOWING.format(name=name))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_every_module_that_can_be_run_ends_in_the_same_way() -> None:
    """Each passes its main function to `run_command`, itself or through the training commands' `run`."""
    for package in ("pipeline", "actors", "web"):
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text()
            if 'if __name__ == "__main__":' in source and path.name != "__main__.py":
                assert "run_command(" in source or "pipeline.train.runs.command import run" in source, path
