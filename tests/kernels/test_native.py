"""The C++ code by itself, without MLX: on other processors, and under sanitizers.

The threads run under the thread sanitizer wherever the compiler has it. `PACKET_VOICE_SANITIZE` set to
`address,undefined` compiles the loops with sanitizers, which takes minutes; otherwise only the code for
64-bit ARM is tried here, under an emulator, because the other tests run what this processor has.
"""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.kernels import build, library

CHECKS = Path(__file__).parent / "native"
SANITIZE = os.environ.get("PACKET_VOICE_SANITIZE")
INCLUDE = f"-I{library.NATIVE}"


def compiled(machine: str, compiler: list[str], flags: list[str], folder: Path) -> Path:
    """The check of the loops, with all that it checks, compiled with `flags` besides those of the library."""
    units = [*build.compute_units(machine), build.Unit(CHECKS / "check.cpp", ("-O1", INCLUDE), "check")]
    if SANITIZE is not None:
        # What is inlined into the loops has so many checks that optimizing it takes the compiler ten minutes.
        units = [replace(u, flags=tuple("-O0" if flag == "-O3" else flag for flag in u.flags)) for u in units]
    objects = build.compile_units(units, [*compiler, *flags], folder)
    subprocess.run([*compiler, *flags, *map(str, objects), "-pthread", "-o", folder / "check"], check=True)
    return folder / "check"


@pytest.mark.skipif(SANITIZE is None, reason="PACKET_VOICE_SANITIZE is not set")
def test_sanitizers_find_nothing_in_the_loops(tmp_path: Path) -> None:
    """Every loop of every instruction set of this processor, at the edges of its memory."""
    flags = ["-g", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    program = compiled(os.uname().machine, build.find_compiler(), flags, tmp_path)
    subprocess.run([program], check=True)


def without_address_randomization(program: Path) -> list[str]:
    """A command that runs `program` where older thread sanitizers find their memory free."""
    setarch = shutil.which("setarch")
    return [str(program)] if setarch is None else [setarch, "--addr-no-randomize", str(program)]


def test_the_thread_sanitizer_finds_nothing_in_the_pool(tmp_path: Path) -> None:
    """Several callers at once, while the number of threads changes; every task runs exactly once."""
    try:
        compiler = [*build.find_compiler(), "-fsanitize=thread", "-g", "-O1", "-std=c++20", "-pthread"]
    except build.BuildError as error:
        pytest.skip(str(error))
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() { return 0; }\n")
    built = subprocess.run([*compiler, empty, "-o", tmp_path / "empty"], check=False, capture_output=True)
    if (
        built.returncode
        or subprocess.run(without_address_randomization(tmp_path / "empty"), check=False).returncode
    ):
        pytest.skip("this compiler, or this system, has no thread sanitizer")
    sources = [library.NATIVE / "pool.cpp", CHECKS / "check_pool.cpp"]
    subprocess.run([*compiler, INCLUDE, *sources, "-o", tmp_path / "check"], check=True)
    command = [*without_address_randomization(tmp_path / "check"), str(tmp_path / "turns")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_arm_computes_the_same(tmp_path: Path) -> None:
    """The code for NEON, cross-compiled and emulated."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64-static")
    program = compiled("aarch64", [compiler], ["-static"], tmp_path)
    subprocess.run([emulator, program], check=True)
