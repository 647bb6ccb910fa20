"""The one place that chooses what computes: Metal, CUDA or the CPU with a real BLAS.

`prepare()` must run before the first `import mlx.core` of the process, because on Linux
the CPU wheel of MLX binds its BLAS symbols when it is loaded: a library already present
with global symbols wins over the reference BLAS inside the wheel, which is about nine
times slower. `pipeline.models` calls it when it is imported, and imports MLX only after.

What belongs here: devices, BLAS, thread counts, the dtype that each device computes in, and
which other processes share a model with this one.
What does not: anything about a model.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import importlib.metadata
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import mlx.core as mx

DeviceName = Literal["metal", "cuda", "cpu"]

# With MKL's default of 200 ms its idle workers spin through the gap between two frames and take
# both cores from everything else. Parked at once, they have to be woken for the next product of
# the same step, which takes longer than the product. A millisecond reaches from one to the next.
_BLOCKTIME = ("KMP_BLOCKTIME", "1")
STAGES = 3  # encoder, stepper, decoder
# Encoder, stepper and decoder compute at once. A product that wants the cores of another
# waits for them, and a small one is slower on two cores than on one at any time.
_SHARE = max(1, (os.cpu_count() or 1) // STAGES)
_THREADS = "MKL_NUM_THREADS"
_SETTERS = {"mkl": "MKL_Set_Num_Threads", "openblas": "openblas_set_num_threads"}
_threads_asked = _THREADS in os.environ
_set_here: set[str] = set()  # of the environment


@dataclass(frozen=True, slots=True)
class Blas:
    """The BLAS that MLX's CPU device calls. `path` is None for the one inside the wheel."""

    name: Literal["mkl", "openblas", "accelerate", "reference"]
    path: str | None


@dataclass(frozen=True, slots=True)
class Backend:
    """What this process computes on."""

    device: DeviceName
    blas: Blas
    mlx_version: str

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype weights are kept in: 16-bit products are unusably slow on a CPU."""
        return "float32" if self.device == "cpu" else "bfloat16"

    @property
    def keeps_quantized(self) -> bool:
        """Whether quantized weights stay so: on a CPU products with them are unusably slow."""
        return self.device != "cpu"

    @property
    def compiles(self) -> bool:
        """Whether models compute by compiled graphs.

        A GPU computes a step faster than Python lays it out. On a CPU it does not, and MLX
        would need a C++ compiler at run time.
        """
        return self.device != "cpu"

    @property
    def warning(self) -> str | None:
        """A sentence for the log when the choice costs the user real time."""
        if self.device == "cpu" and self.blas.name == "reference":
            return (
                "no fast BLAS found: matrix products run about 9 times slower than they could; "
                "install the 'cpu' extra (pip install 'packet-voice[cpu]') or a system OpenBLAS "
                "(apt-get install libopenblas0)"
            )
        return None


def _mkl_path() -> Path | None:
    # The `mkl` package installs its libraries beside the interpreter's own.
    found = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    return found[-1] if found else None


@functools.cache
def _load_blas() -> Blas:
    if sys.platform == "darwin":
        return Blas("accelerate", None)
    mkl = _mkl_path() if platform.machine() == "x86_64" else None
    candidates: list[tuple[Literal["mkl", "openblas"], str]] = []
    if mkl is not None:
        candidates.append(("mkl", str(mkl)))
    openblas = ctypes.util.find_library("openblas")
    if openblas is not None:
        candidates.append(("openblas", openblas))
    for name, path in candidates:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue  # present but unloadable, for instance built for another libc
        return Blas(name, path)
    return Blas("reference", None)


@functools.cache
def prepare() -> Backend:
    """Choose the device and load its BLAS; called again, it answers what it chose.

    Raises:
        RuntimeError: MLX was imported earlier, so that the choice would come too late.
    """
    if sys.platform == "linux" and "mlx.core" in sys.modules:
        raise RuntimeError("pipeline.backend.prepare() must run before the first import of mlx.core")
    for name, value in (_BLOCKTIME, (_THREADS, str(_SHARE))):
        if name not in os.environ:
            os.environ[name] = value
            _set_here.add(name)
    blas = _load_blas()
    import mlx.core as mx  # noqa: PLC0415 - the order is the point

    device: DeviceName = "cpu"
    if mx.metal.is_available():
        device = "metal"
    elif mx.cuda.is_available():
        device = "cuda"
    return Backend(device, blas, importlib.metadata.version("mlx"))


def divide_cores(*, lone: bool) -> None:
    """Let every product of this process have a third of the cores, or all of them for a `lone` big model.

    One that is larger than the caches and serves one session waits for memory, and a core alone
    reads slower than all together. `MKL_NUM_THREADS`, where the user has set it, stays.
    """
    blas = prepare().blas
    if _threads_asked or blas.name not in _SETTERS:
        return
    threads = (os.cpu_count() or 1) if lone else _SHARE
    ctypes.CDLL(blas.path)[_SETTERS[blas.name]](threads)
    os.environ[_THREADS] = str(threads)  # where `homes` finds it


def users_environment() -> dict[str, str]:
    """The environment without what `prepare` put there: a process started in it chooses for itself."""
    return {name: value for name, value in os.environ.items() if name not in _set_here}


def homes() -> tuple[frozenset[int] | None, ...]:
    """One home for each thread that computes and the one that MLX starts for it: a core, or None for any.

    The two hand each other hundreds of operations for every frame. On one core that is a queue;
    between two, each hand-over wakes a core that has just fallen asleep, which on a virtual
    machine costs more than the operation (a step of 13 ms takes 8). Where a product has several
    threads of its own, they need the other cores, and nobody is told where to be; nor where ranks
    share a model, because MLX waits for the others' parts with a thread that never rests.
    """
    here = sys.platform == "linux" and prepare().device == "cpu"
    if not here or os.environ[_THREADS] != "1" or launched().size > 1:
        return (None,) * STAGES
    cores = sorted(os.sched_getaffinity(0))[:STAGES]
    return tuple(frozenset({core}) for core in cores) if len(cores) > 1 else (None,)


@contextlib.contextmanager
def staying_at(cores: frozenset[int] | None) -> Iterator[None]:
    """Keep the calling thread, and threads that it starts meanwhile, on `cores`."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_bytes() -> int:
    """Memory that a model could take now, where this process computes.

    On Metal the model shares the machine's memory, of which the system grants a part.
    """
    device = prepare().device
    available: int = psutil.virtual_memory().available
    if device == "cpu":
        return available
    import mlx.core as mx  # noqa: PLC0415 - after prepare()

    about = mx.device_info()
    if device == "metal":
        return min(available, int(about["max_recommended_working_set_size"]))
    return int(about["free_memory"] if "free_memory" in about else about["total_memory"])


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of the `size` processes that share one model this is; rank 0 serves."""

    rank: int
    size: int


ALONE = Ranks(0, 1)
# Files of `mlx.launch` that have one entry for each rank, by the variable that names them.
_RANK_FILES = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")


def launched() -> Ranks:
    """What `mlx.launch` says in the environment; `ALONE` without it.

    Raises:
        ConfigError: it contradicts itself.
    """
    rank = os.environ.get("MLX_RANK")
    if rank is None:
        return ALONE
    size = 1
    try:
        if "MLX_WORLD_SIZE" in os.environ:
            size = int(os.environ["MLX_WORLD_SIZE"])
        for variable in _RANK_FILES:
            if variable in os.environ:
                listed = Path(os.environ[variable]).read_text(encoding="utf-8").strip()
                size = len(json.loads(listed)) if listed else 1  # of a single rank the file is empty
        ranks = Ranks(int(rank), size)
    except (OSError, ValueError) as error:
        raise ConfigError("MLX_RANK", f"what mlx.launch left in the environment is no use: {error}") from None
    if not 0 <= ranks.rank < ranks.size:
        raise ConfigError("MLX_RANK", f"{rank}, of {size} ranks")
    return ranks


@contextlib.contextmanager
def joining(within_s: float) -> "Iterator[mx.distributed.Group]":
    """Find the other ranks, and do what the block does with them, or the process ends by SIGALRM.

    MLX waits for them inside one call, which holds the interpreter: nothing else can end it.
    On the main thread.

    Raises:
        ConfigError: they cannot be reached.
    """
    import mlx.core as mx  # noqa: PLC0415 - after prepare()

    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, within_s)
    try:
        try:
            group = mx.distributed.init(strict=True)
        except RuntimeError as error:
            raise ConfigError("mlx.launch", f"the other ranks cannot be reached: {error}") from None
        yield group
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
