"""Builds the native kernels: `python -m pipeline.kernels.build`, part of `make setup` and `make install`.

The sources in `native/` are compiled with whatever C++ compiler there is, against the headers in the MLX
wheel. The result is tried in a process of its own and only then put where `library` looks for it, under a
name that depends on the sources and on the version of MLX: a library that was built for another MLX is
never loaded. Where something is missing, a sentence says what, and the program runs without kernels.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.kernels import library
from pipeline.system.command import run_command

# Everything that is compiled without an instruction set runs on any processor of its kind.
_COMMON: Final = (
    "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=fast", "-DNDEBUG",
    "-Wall", "-Wno-psabi",
)  # fmt: skip
_AVX2: Final = ("-mavx2", "-mfma", "-mf16c")
_AVX512: Final = (
    *_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512",
    "-DPV_WIDTH=16", "-DPV_REGISTERS=32",
)  # fmt: skip
_INSTRUCTION_SETS: Final[Mapping[str, dict[str, tuple[str, ...]]]] = {
    "x86_64": {
        "avx2": (*_AVX2, "-DPV_WIDTH=8", "-DPV_REGISTERS=16"),
        "avx512": _AVX512,
        "avx512vnni": (*_AVX512, "-mavx512vnni", "-mavx512vbmi"),
    },
    # Eight floats are two registers of NEON, of which there are 32.
    "aarch64": {"neon": ("-DPV_WIDTH=8", "-DPV_REGISTERS=16")},
}  # fmt: skip
_TIMEOUT_S: Final = 1800  # a compiler that hangs; a busy machine takes a while


class BuildError(Exception):
    """The kernels cannot be built here; the message says why."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One file to compile."""

    source: Path
    flags: tuple[str, ...]
    name: str


def find_compiler() -> list[str]:
    """The command of a C++ compiler: `$CXX`, or the first one that is installed.

    Raises:
        BuildError: there is none.
    """
    given = os.environ.get("CXX")
    try:
        commands = [shlex.split(given)] if given else [["g++"], ["c++"], ["clang++"]]
    except ValueError as error:
        raise BuildError(f"CXX is not a command ({error})") from None
    for command in commands:
        if command and shutil.which(command[0]):
            return command
    if given:
        raise BuildError(f"there is no compiler {given}, which CXX names")
    raise BuildError("no C++ compiler found; install one (Debian: apt-get install g++) and run make kernels")


def instruction_sets(machine: str) -> dict[str, tuple[str, ...]]:
    """The instruction sets that are compiled for `machine`, with their flags.

    Raises:
        BuildError: there is no code for this kind of processor.
    """
    if machine not in _INSTRUCTION_SETS:
        raise BuildError(f"there are no kernels for {machine} processors")
    return _INSTRUCTION_SETS[machine]


def compute_units(machine: str) -> list[Unit]:
    """The files that need neither MLX nor Python: loops, once for each instruction set, and threads."""
    units = [
        Unit(
            library.NATIVE / "loops" / "compute.cpp", ("-O3", *flags, f"-DPV_NAME={name}"), f"compute_{name}"
        )
        for name, flags in instruction_sets(machine).items()
    ]
    units += [Unit(library.NATIVE / f"{name}.cpp", ("-O2",), name) for name in ("dispatch", "pool")]
    return units


def _units(machine: str) -> list[Unit]:
    spec = find_spec("nanobind")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("the package nanobind is not installed; run make setup")
    nanobind = Path(spec.submodule_search_locations[0])
    mlx = library.mlx_folder()
    if not (mlx / "include" / "mlx" / "mlx.h").is_file() or not (mlx / "lib" / "libmlx.so").is_file():
        raise BuildError("this build of MLX has no headers to compile against")
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").is_file():
        raise BuildError("Python's headers are not installed (Debian: apt-get install python3-dev)")
    include = (f"-I{mlx / 'include'}",)
    binding = (
        "-DNB_DOMAIN=mlx", "-DNB_COMPACT_ASSERTIONS", "-fno-strict-aliasing", f"-I{python}",
        f"-I{nanobind / 'include'}", f"-I{nanobind / 'ext' / 'robin_map' / 'include'}",
    )  # fmt: skip
    # The longest first, so that both cores are busy to the end.
    return [
        Unit(library.NATIVE / "module.cpp", ("-O1", *include, *binding), "module"),
        Unit(nanobind / "src" / "nb_combined.cpp", ("-O1", *binding), "nanobind"),
        *(
            Unit(library.NATIVE / f"{n}.cpp", ("-O2", *include), n)
            for n in ("transformer", "matrix", "seanet", "mapping")
        ),
        *compute_units(machine),
    ]


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        wrong = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise BuildError(f"{Path(command[0]).name} failed: {wrong}")


def compile_units(units: Sequence[Unit], compiler: Sequence[str], folder: Path) -> list[Path]:
    """Compile `units` to object files in `folder`, as many at a time as there are cores.

    Raises:
        BuildError: the compiler refuses one.
    """

    def compile_one(unit: Unit) -> Path:
        target = folder / f"{unit.name}.o"
        _run([*compiler, *_COMMON, *unit.flags, "-c", str(unit.source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(compile_one, units))


def build(folder: Path | None = None) -> Path:
    """Build the library, try it, and put it into `folder`, by default the first of `library.folders()`.

    Raises:
        BuildError: it cannot be built here, or does not compute what it should.
    """
    if sys.platform != "linux":
        raise BuildError("kernels are for the CPU on Linux; other systems compute elsewhere")
    compiler = find_compiler()
    units = _units(platform.machine())
    folder = folder or library.folders()[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
            objects = compile_units(units, compiler, Path(temporary))
            built = Path(temporary, library.file_name())
            lib = library.mlx_folder() / "lib"
            link = ["-shared", f"-L{lib}", "-lmlx", f"-Wl,-rpath,{lib}", "-pthread", "-s"]
            _run([*compiler, *map(str, objects), *link, "-o", str(built)])
            _run([sys.executable, "-m", "pipeline.kernels.selftest", str(built)])
            _put(built, folder)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"the compiler took longer than {_TIMEOUT_S} seconds") from None
    for old in folder.glob("kernels-*"):
        if old.stem != Path(library.file_name()).stem and old.is_file():
            old.unlink(missing_ok=True)
    return folder / library.file_name()


def _put(built: Path, folder: Path) -> None:
    """Move the library into `folder`, once all of it is on disk, and its digest before it."""
    with built.open("rb") as file:
        os.fsync(file.fileno())
    target = folder / built.name
    digest = library.digest_path(built)
    digest.write_text(library.digest_of(built), encoding="ascii")
    target.unlink(missing_ok=True)  # never beside the digest of another
    digest.replace(library.digest_path(target))
    built.replace(target)


def main() -> int:
    """Build the kernels unless they are built already. Without `--require` the exit code is always 0."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.kernels.build", description=__doc__)
    parser.add_argument("--force", action="store_true", help="build even if there is a library already")
    parser.add_argument("--require", action="store_true", help="exit with 1 if they cannot be built")
    arguments = parser.parse_args()
    if library.find() is not None and not arguments.force:
        return 0
    print("Compiling the CPU kernels: about a minute, once for each version.", file=sys.stderr)  # noqa: T201
    begin = time.monotonic()
    try:
        build()
    except BuildError as error:
        print(f"Without native kernels: {error}. Everything works, more slowly.", file=sys.stderr)  # noqa: T201
        return int(arguments.require)
    print(f"Compiled in {time.monotonic() - begin:.0f} s.", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
