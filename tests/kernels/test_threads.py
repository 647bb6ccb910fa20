"""Processes that compute on the same cores take turns in having helpers."""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.kernels.library import Library

# Prints how many tasks of 300 products helpers have run; and, after a line has come in, once there is one.
PROGRAM = """
import sys
import time

from pipeline import backend

native = backend.kernels().native
import mlx.core as mx

native.set_turns(sys.argv[1])
native.set_threads(2)
weight, x = mx.random.normal((1024, 512)), mx.random.normal((1, 512))
mx.eval(weight, x)
matrix = native.Matrix(weight)
expected = x @ weight.T


def multiply():
    assert mx.allclose(native.linear(x, matrix), expected, atol=1e-4).item()


for _ in range(300):
    multiply()
print(native.helped(), flush=True)
sys.stdin.readline()
while not native.helped():
    multiply()
    time.sleep(0.001)
print("helped", flush=True)
"""


@contextmanager
def turn_of_helper(number: int, path: Path) -> Iterator[None]:
    """Have the turn of one helper, as a process whose helper is awake has."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        yield
    finally:
        os.close(file)


def started(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_helpers_wait_for_their_turn(library: Library, tmp_path: Path) -> None:
    """While another process has them, products are computed without; afterwards with them again."""
    path = tmp_path / "turns"
    with turn_of_helper(1, path):
        process = started(path)
        assert process.stdout is not None
        assert process.stdin is not None
        alone = process.stdout.readline()
    rest, _ = process.communicate("\n")
    assert (alone, rest, process.returncode) == ("0\n", "helped\n", 0)


def test_without_the_file_there_are_helpers(library: Library, tmp_path: Path) -> None:
    """Where it cannot be made, each process computes as if it were the only one."""
    process = started(tmp_path / "missing" / "turns")
    said, _ = process.communicate("\n")
    assert (said.splitlines()[-1], process.returncode) == ("helped", 0)
