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


def compiled(
    machine: str, compiler: list[str], flags: list[str], folder: Path, optimization: str = "-O3"
) -> Path:
    include = f"-I{library.NATIVE}"
    units = [
        replace(unit, flags=tuple(optimization if flag == "-O3" else flag for flag in unit.flags))
        for unit in build.compute_units(machine)
    ]
    units.append(build.Unit(CHECK, ("-O1", include), "check"))
    objects = build.compile_units(units, [*compiler, *flags], folder)
    subprocess.run([*compiler, *flags, *map(str, objects), "-pthread", "-o", folder / "check"], check=True)
    return folder / "check"


@pytest.mark.skipif(SANITIZE is None, reason="PACKET_VOICE_SANITIZE is not set")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Every loop of every instruction set of this processor, at the edges of its memory."""
    flags = ["-g", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    # What is inlined here has so many checks that optimizing it takes the compiler ten minutes.
    program = compiled(os.uname().machine, build.find_compiler(), flags, tmp_path, "-O0")
    subprocess.run([program], check=True)


def test_arm_computes_the_same(tmp_path: Path) -> None:
    """The code for NEON, cross-compiled and emulated."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64-static")
    program = compiled("aarch64", [compiler], ["-static"], tmp_path)
    subprocess.run([emulator, program], check=True)
