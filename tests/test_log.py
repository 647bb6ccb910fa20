"""The log costs nobody anything: no method waits or fails, and every line is written whole or counted."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.log import LineWriter

ROOT = Path(__file__).parents[1]
HANG_S = 60  # no guarantee depends on it: it turns a hang into a failure


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(end)


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting(pipe: tuple[int, int]) -> None:
    """Lines for which there is no room are counted; those that the reader gets later are whole."""
    reading, writing = pipe
    writer = LineWriter(writing, queued_bytes=100_000)
    line = "x" * 999 + "\n"
    for _ in range(1000):
        writer.write(line)
    writer.flush(0)
    lost = writer.lost
    assert 0 < lost < 1000
    got = b""
    while len(got) < (1000 - lost) * 1000:
        got += os.read(reading, 1 << 16)
    assert set(got.split(b"\n")) == {line[:-1].encode(), b""}


def test_a_reader_that_has_left_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    """Each line is counted as lost."""
    reading, writing = pipe
    os.close(reading)
    writer = LineWriter(writing)
    for _ in range(3):
        writer.write("line\n")
    writer.flush(HANG_S)
    assert writer.lost == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    """Each line is counted as lost."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = LineWriter(full)
        writer.write("line\n")
        writer.flush(HANG_S)
        assert writer.lost == 1
    finally:
        os.close(full)


def test_a_line_after_one_that_was_cut_begins_anew(pipe: tuple[int, int]) -> None:
    """Another process may have made the pipe one that is not waited for; what was cut is counted."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LineWriter(writing)
    writer.write("x" * 200_000 + "\n")  # more than a pipe holds
    writer.flush(HANG_S)
    got = os.read(reading, 1 << 20)
    writer.write("next\n")
    writer.flush(HANG_S)
    got += os.read(reading, 1 << 20)
    cut, following, rest = got.split(b"\n", 2)
    assert (set(cut), following, writer.lost) == (set(b"x"), b"next", 1)
    assert b"\n" not in rest.rstrip(b"\n")


def test_a_line_of_any_text_is_written(pipe: tuple[int, int]) -> None:
    """The name of a file may be no text."""
    reading, writing = pipe
    writer = LineWriter(writing)
    writer.write("\udcff\n")
    writer.flush(HANG_S)
    assert os.read(reading, 100) == b"\\udcff\n"


def test_a_system_without_another_thread_costs_lines_until_there_is_one(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is started with the first line that finds one."""
    reading, writing = pipe
    writer = LineWriter(writing)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", refuse)
        writer.write("lost\n")
    writer.write("written\n")
    writer.flush(HANG_S)
    assert os.read(reading, 100).startswith(b"written\n")
    assert writer.lost == 1


def test_lines_of_many_threads_are_not_mixed(pipe: tuple[int, int]) -> None:
    """A line is written as one."""
    reading, writing = pipe
    writer = LineWriter(writing)
    threads = [
        threading.Thread(target=lambda n=n: [writer.write(f"{n}" * 50 + "\n") for _ in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush(HANG_S)
    got = os.read(reading, 1 << 16).decode().splitlines()
    assert (len(got), writer.lost) == (400, 0)
    assert all(len(set(line)) == 1 for line in got)


PROGRAM = """
import atexit, logging, sys, threading, warnings
from pipeline import log
from pipeline.config import Log

log.configure(Log(format="json"))
atexit.register(log.flush, 60)
logging.getLogger("library").error("it %s", "failed", exc_info=ValueError("bad"))
logging.getLogger("library").warning("%d", "not a number")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()

class Bad:
    def __del__(self):
        raise LookupError("late")

Bad()
log.events.info("name", value="\\udc80 \\u2028")
raise KeyError("nobody handles it")
"""


def test_what_python_and_libraries_print_is_json_too() -> None:
    """Log records, warnings and exceptions in threads, finalizers and the main program are events."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == [
        "library_message",
        "library_message",
        "python_warning",
        "thread_failed",
        "exception_ignored",
        "name",
        "unhandled_exception",
    ]
    assert (events[0]["logger"], events[0]["message"]) == ("library", "it failed")
    assert "ValueError: bad" in events[0]["exception"]
    assert "KeyError" in events[-1]["exception"]


def test_lost_lines_are_reported_once_lines_can_be_written_again(tmp_path: Path) -> None:
    """The reader of the log learns that it does not see everything."""
    program = """
import os, sys
from pipeline import log
from pipeline.config import Log

log.configure(Log(format="json"))
kept = os.dup(2)
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
log.events.info("a")
log.events.info("b")
log.flush(60)
os.dup2(kept, 2)
log.events.info("c")
log.flush(60)
assert log.lost_lines() == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(event["event"], event.get("lines")) for event in events] == [("c", None), ("log_lines_lost", 2)]
