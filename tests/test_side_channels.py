"""A log that nobody reads, that is closed or full, and closed standard streams, as real processes.

The conversation is answered, the server ends on a signal, and what was lost is counted.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from pipeline.audio.sound_file import read_speech
from pipeline.client.session import ServerUnavailableError, converse
from pipeline.loadtest.server_process import free_port

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "tests/data/speech.wav"
READY_S = 180.0


def health(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as response:
        return json.load(response)


@contextmanager
def serving(
    checkpoint: Path, *overrides: str, redirect: str = "", **options: object
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server that is ready, with its streams redirected by the shell or by `options`."""
    port = free_port()
    sets = " ".join(f"--set {override}" for override in (f"server.port={port}", *overrides))
    command = f"exec {sys.executable} -m pipeline.run --config {checkpoint} {sets} {redirect}"
    with subprocess.Popen(["/bin/sh", "-c", command], cwd=ROOT, **options) as process:
        try:
            deadline_s = time.monotonic() + READY_S
            while True:
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline_s
                try:
                    if health(port)["status"] == "ready":
                        break
                except OSError:
                    time.sleep(0.05)
            yield port, process
        finally:
            process.kill()


def stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    return process.wait(timeout=120)


def is_answered(port: int) -> bool:
    speech = read_speech(SPEECH)[:24_000]
    report = trio.run(partial(converse, f"ws://127.0.0.1:{port}/ws", speech))
    return report.frames_out > 0 and report.close == 1000


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_a_log_that_cannot_be_written_costs_its_lines(checkpoint: Path, redirect: str) -> None:
    """On a full disk and with closed streams the server starts, answers and drains; traces are lines, too."""
    with serving(checkpoint, "log.trace_every=1", redirect=redirect) as (port, process):
        assert is_answered(port)
        assert (health(port)["log"]["lostLines"] > 0) == (redirect == "2>/dev/full")
        assert stop(process) == 0


def test_a_log_whose_reader_leaves_costs_its_lines(checkpoint: Path) -> None:
    """A conversation and a connection that is turned away go on as before."""
    options = {"stderr": subprocess.PIPE}
    with serving(checkpoint, "limits.connections_per_address=3", **options) as (port, process):
        process.stderr.close()
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        for each in sockets:
            each.close()
        while True:
            with suppress(ServerUnavailableError):  # until the server has noticed that they are gone
                assert is_answered(port)
                break
        assert health(port)["log"]["lostLines"] > 0
        assert stop(process) == 0


def test_a_log_that_nobody_reads_keeps_nobody_waiting(checkpoint: Path) -> None:
    """With a full pipe the server answers, and ends on SIGTERM."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while os.write(writing, b" " * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    try:
        with serving(checkpoint, stderr=writing) as (port, process):
            assert is_answered(port)
            assert stop(process) == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_a_lost_line_is_counted_in_the_metrics(checkpoint: Path) -> None:
    """The count of `/health` is a counter of `/metrics`."""
    with serving(checkpoint, redirect="2>/dev/full") as (port, process):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        (line,) = [line for line in lines if line.startswith("packet_voice_log_lines_lost_total")]
        assert float(line.split()[1]) > 0
        assert stop(process) == 0
