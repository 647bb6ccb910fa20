"""Finds and loads the native library that `build` made, and says why there is none.

A library is loaded only if it was built from these sources, for this Python and this version of MLX: all of
them are in its file name. `PACKET_VOICE_KERNELS` overrides what is chosen, for tests and comparisons:
`off`, or the best instruction set to use (`avx512vnni`, `avx512`, `avx2`, `neon`, or `none` for a processor
that has none of them). Beside it is the SHA-256 of its content: loading a file that is damaged could end the
process.
"""

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

NATIVE: Final = Path(__file__).parent / "native"
MODULE: Final = "packet_voice_kernels"
VARIABLE: Final = "PACKET_VOICE_KERNELS"


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library; `instruction_set` is what it computes with."""

    native: ModuleType
    instruction_set: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why there are no kernels, as the end of a sentence. `expected`: nothing is missing here."""

    reason: str
    expected: bool = False


def mlx_folder() -> Path:
    """The folder of MLX's package, with its headers and its library; nothing is imported."""
    spec = importlib.util.find_spec("mlx")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def folders() -> tuple[Path, ...]:
    """Where the library may be: next to the packages of this Python, or in the user's cache folder."""
    inside = Path(sys.prefix, "lib", "packet-voice")
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:  # this user has no home folder
            return (inside,)
    outside = cache / "packet-voice" / "kernels"
    parent = inside if inside.is_dir() else inside.parent
    return (inside, outside) if os.access(parent, os.W_OK) else (outside, inside)


@functools.cache
def file_name() -> str:
    """The name of the library that fits these sources, this Python and this MLX."""
    made_of = hashlib.sha256()
    for part in (
        importlib.metadata.version("mlx"),
        str(sysconfig.get_config_var("SOABI")),
        platform.machine(),
    ):
        made_of.update(part.encode() + b"\0")
    for source in sorted(NATIVE.glob("**/*.*")):
        made_of.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return f"kernels-{made_of.hexdigest()[:16]}.so"


def find() -> Path | None:
    """The library that fits, if it has been built."""
    candidates = (str(folder / file_name()) for folder in folders())
    # Not by pathlib, which raises an exception where a folder may not be searched or has too long a name.
    return next((Path(path) for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113


def digest_path(path: Path) -> Path:
    """The file with the SHA-256 of the library at `path`."""
    return path.with_suffix(".sha256")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path) -> bool:
    """Whether the library at `path` is as it was built; one without a digest is taken to be."""
    try:
        expected = digest_path(path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return True
    return digest_of(path) == expected.strip()


def _mlx_release() -> list[str]:
    """The three numbers of MLX's version, without what a development build adds to them."""
    return importlib.metadata.version("mlx").partition("+")[0].split(".")[:3]


def open_library(path: Path, best: str = "") -> Library | Unavailable:
    """Load the library at `path` and choose its best instruction set, none better than `best`.

    `mlx.core` must have been imported, with the BLAS of its choice.
    """
    try:
        if not _is_whole(path):
            return Unavailable("the library is damaged; build it again with make kernels")
    except OSError as error:
        return Unavailable(f"the library cannot be read ({error.strerror}); build it again with make kernels")
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(path))
    spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
    assert spec is not None
    try:
        native = importlib.util.module_from_spec(spec)
        loader.exec_module(native)
    except (ImportError, OSError) as error:
        return Unavailable(f"the library cannot be loaded ({error}); build it again with make kernels")
    if native.mlx_version.split(".") != _mlx_release():
        return Unavailable("the library was built for another version of MLX; run make kernels")
    names = [name for name in native.supported().split(",") if name]
    if best:
        names = names[names.index(best) :] if best in names else []
    if not names:
        return Unavailable("this processor has none of the instruction sets AVX2, AVX-512 and NEON")
    native.choose(names[0])
    return Library(native, names[0])


@functools.cache
def load() -> Library | Unavailable:
    """The library, loaded once per process."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen == "off":
        return Unavailable(f"{VARIABLE}=off", expected=True)
    if sys.platform != "linux":
        return Unavailable("they are for the CPU on Linux", expected=True)
    path = find()
    if path is None:
        return Unavailable("they have not been built for this version of MLX; run make kernels")
    return open_library(path, chosen)
