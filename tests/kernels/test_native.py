"""The C++ loops by themselves, without MLX: on other processors, and under sanitizers.

`PACKET_VOICE_SANITIZE=address,undefined` (or `thread`) compiles them with sanitizers; otherwise only the
code for 64-bit ARM is tried here, under an emulator, because the other tests run what this processor has.
"""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.kernels import build, library

CHECK = Path(__file__).parent / "native" / "check.cpp"
SANITIZE = os.environ.get("PACKET_VOICE_SANITIZE")


def compiled(machine: str, compiler: list[str], flags: list[str], folder: Path) -> Path:
    """The check, with all that it checks, compiled with `flags` besides those of the library."""
    units = [*build.compute_units(machine), build.Unit(CHECK, ("-O1", f"-I{library.NATIVE}"), "check")]
    loops, others = [u for u in units if "-O3" in u.flags], [u for u in units if "-O3" not in u.flags]
    loop_flags = flags
    if SANITIZE == "thread":
        loop_flags = []  # they have no threads of their own
    elif SANITIZE is not None:
        # What is inlined into them has so many checks that optimizing it takes the compiler ten minutes.
        loops = [replace(u, flags=tuple("-O0" if flag == "-O3" else flag for flag in u.flags)) for u in loops]
    objects = build.compile_units(loops, [*compiler, *loop_flags], folder)
    objects += build.compile_units(others, [*compiler, *flags], folder)
    subprocess.run([*compiler, *flags, *map(str, objects), "-pthread", "-o", folder / "check"], check=True)
    return folder / "check"


@pytest.mark.skipif(SANITIZE is None, reason="PACKET_VOICE_SANITIZE is not set")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Every loop of every instruction set of this processor, at the edges of its memory, and the threads."""
    flags = ["-g", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    program = compiled(os.uname().machine, build.find_compiler(), flags, tmp_path)
    subprocess.run([program], check=True)


def test_arm_computes_the_same(tmp_path: Path) -> None:
    """The code for NEON, cross-compiled and emulated."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64-static")
    program = compiled("aarch64", [compiler], ["-static"], tmp_path)
    subprocess.run([emulator, program], check=True)
