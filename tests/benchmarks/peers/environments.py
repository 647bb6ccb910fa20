"""The peers' own environments: virtual environments under `.peers/`, made once, never the project's.

Versions are exact. What a peer shares with this project (MLX, MKL, NumPy) comes in the project's
versions, from `constraints.txt`, so that the difference is in the implementation.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

# Each list is one call of pip. The packages' own pins would bring an MLX that does not import on
# Linux, hence --no-deps. PyTorch from PyPI brings CUDA's libraries, several gigabytes; who has an
# index of CPU builds can set it as PIP_EXTRA_INDEX_URL. GGML is compiled for this processor, which needs
# a C++ compiler and takes a few minutes.
_SHARED: Final = ("numpy", "safetensors", "huggingface_hub", "sentencepiece")
_PINNED: Final = {*_SHARED, "mlx", "mlx-cpu", "mkl"}
_LINUX: Final = sys.platform == "linux"
INSTALLS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "torch": (
        ("torch==2.13.0", "einops==0.8.2", *_SHARED),
        ("--no-deps", "moshi==0.2.13"),
    ),
    "mlx": (
        ("mlx[cpu]" if _LINUX else "mlx", *_SHARED, "rustymimi==0.4.1")
        + (('mkl; platform_machine == "x86_64"',) if _LINUX else ()),
        ("--no-deps", "moshi_mlx==0.3.0"),
    ),
    "ggml": (("ggml-python==0.0.45", "numpy"),),
}


class BuildError(Exception):
    """An environment cannot be created; the message says why."""


def interpreter(folder: Path, name: str, constraints: Path) -> Path:
    """The Python of environment `name` in `folder`, made where it is not there or was made otherwise.

    Raises:
        BuildError: pip failed; the message is its last line.
    """
    place = folder / name
    python = place / "bin" / "python"
    recipe = "\n".join([sys.version, *map(" ".join, INSTALLS[name]), *_pins(constraints)])
    stamp, digest = place / ".ready", hashlib.sha256(recipe.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"making the environment {place}", file=sys.stderr, flush=True)
    venv.create(place, clear=True, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for packages in INSTALLS[name]:
        done = subprocess.run(
            [*pip, "--constraint", str(constraints), *packages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
            raise BuildError(f"the environment {name} cannot be made: {errors[-1].removeprefix('ERROR: ')}")
    stamp.write_text(digest)
    return python


def _pins(constraints: Path) -> list[str]:
    """The lines that decide what a peer shares with us; others change without any effect on it."""
    return [line for line in constraints.read_text().splitlines() if line.partition("==")[0] in _PINNED]
