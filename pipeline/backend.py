"""Chooses the compute backend: Metal, CUDA, or the CPU with a fast BLAS.

`prepare()` must run before the first `import mlx.core` of the process. On Linux the CPU wheel of
MLX binds its BLAS symbols when it is loaded, and a library that is loaded already with global
symbols takes precedence over the reference BLAS inside the wheel, which is about nine times
slower. `pipeline.models` and `pipeline.diagnostics` therefore call it when they are imported,
before they import MLX. It is the only work done at import: everything else uses the `Backend`
when it is constructed or called.

What belongs here: devices, BLAS, thread counts, core affinity, the dtype that each device
computes in, and the ranks that share a model. What does not: anything about a model.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import importlib.metadata
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError
from pipeline.kernels import library
from pipeline.kernels.library import Library, Unavailable
from pipeline.system import resources
from pipeline.system.inputs import parse_json, read_text

if TYPE_CHECKING:
    import mlx.core as mx

DeviceName = Literal["metal", "cuda", "cpu"]

STAGES = 3  # encoder, stepper, decoder
# With MKL's default of 200 ms its idle workers spin through the gap between two frames and take
# both cores from everything else. With 0 they have to be woken for the next product of the same
# step, which takes longer than the product. A millisecond is longer than the time between two.
_BLOCKTIME = ("KMP_BLOCKTIME", "1")
_THREADS = "MKL_NUM_THREADS"
_SET_THREADS = {"mkl": "MKL_Set_Num_Threads", "openblas": "openblas_set_num_threads"}


@dataclass(frozen=True, slots=True)
class Blas:
    """The BLAS that MLX's CPU device calls. `path` is None for the one inside the wheel."""

    name: Literal["mkl", "openblas", "accelerate", "reference"]
    path: str | None


@dataclass(frozen=True, slots=True)
class Backend:
    """What this process computes on.

    added_environment: the variables that `prepare` added to the environment. threads_from_user:
    whether the user has set the number of BLAS threads.
    """

    device: DeviceName
    blas: Blas
    mlx_version: str
    added_environment: frozenset[str] = frozenset()
    threads_from_user: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether MLX computes on the CPU."""
        return self.device == "cpu"

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of weights and caches: 16-bit products are unusably slow on a CPU."""
        return "float32" if self.on_cpu else "bfloat16"

    @property
    def keeps_quantized(self) -> bool:
        """Whether quantized weights stay quantized: products with them are unusably slow on a CPU."""
        return not self.on_cpu

    @property
    def compiles(self) -> bool:
        """Whether models run as compiled functions.

        A GPU computes a step faster than Python builds its graph. A CPU does not, and MLX would
        need a C++ compiler at run time.
        """
        return not self.on_cpu

    @property
    def pads_batches(self) -> bool:
        """Whether batches are padded to bucket widths: a GPU prefers few shapes, a CPU pays for every row."""
        return not self.on_cpu

    @property
    def warning(self) -> str | None:
        """A sentence for the log if there is no fast BLAS."""
        if self.on_cpu and self.blas.name == "reference":
            return (
                "no fast BLAS found: matrix products run about 9 times slower than they could; "
                f"install MKL ({sys.executable} -m pip install mkl; x86 only) or a system OpenBLAS "
                "(apt-get install libopenblas0)"
            )
        return None


def _mkl_path() -> Path | None:
    # The `mkl` package installs its libraries next to the interpreter's own.
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
            continue  # present but not loadable, for instance built for another libc
        return Blas(name, path)
    return Blas("reference", None)


@functools.cache
def prepare() -> Backend:
    """Load the BLAS and choose the device, once per process; further calls return the same `Backend`.

    Raises:
        RuntimeError: MLX was imported before, so that its BLAS can no longer be replaced.
    """
    if sys.platform == "linux" and "mlx.core" in sys.modules:
        raise RuntimeError("pipeline.backend.prepare() must run before the first import of mlx.core")
    defaults = dict([_BLOCKTIME, (_THREADS, str(_stage_threads()))])
    added = frozenset(defaults) - set(os.environ)
    os.environ.update({name: defaults[name] for name in added})
    blas = _load_blas()
    import mlx.core as mx  # noqa: PLC0415 - it must follow the loading of the BLAS

    device: DeviceName = "cpu"
    if mx.metal.is_available():
        device = "metal"
    elif mx.cuda.is_available():
        device = "cuda"
    version = importlib.metadata.version("mlx")
    return Backend(device, blas, version, added, threads_from_user=_THREADS not in added)


def _stage_threads() -> int:
    """The BLAS threads of one stage: an equal share of the cores, because all three compute at once.

    A product that needs the cores of another waits for them, and a small one is slower on two
    cores than on one anyway.
    """
    return max(1, resources.usable_cores() // STAGES)


def set_blas_threads(*, all_cores: bool) -> None:
    """Give every matrix product a third of the cores, or all of them for one session of a large model.

    This is for BLAS and for native kernels. The products of a model that is larger than the CPU's caches are
    bound by memory bandwidth, of which one core gets only a part. `MKL_NUM_THREADS` stays as the user has set
    it.
    """
    machine = prepare()
    threads = resources.usable_cores() if all_cores else _stage_threads()
    native = kernels()
    if isinstance(native, Library):
        given = os.environ[_THREADS]
        if all_cores:  # with a third of them two servers may have enough cores
            native.native.set_turns(_turns_path())
        native.native.set_threads(int(given) if machine.threads_from_user and given.isdecimal() else threads)
    if machine.threads_from_user or machine.blas.name not in _SET_THREADS:
        return
    ctypes.CDLL(machine.blas.path)[_SET_THREADS[machine.blas.name]](threads)
    os.environ[_THREADS] = str(threads)  # read by `core_affinity`


def _turns_path() -> str:
    """The file by which servers of one user take turns in using all cores for a product; "" for none."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if not (folder.is_absolute() and os.access(folder, os.W_OK)):
        try:
            folder = Path(tempfile.gettempdir())
        except FileNotFoundError:
            return ""
    return str(folder / f"packet-voice-threads-{os.getuid()}")


def kernels() -> Library | Unavailable:
    """The native kernels of this process, or why there are none."""
    if not prepare().on_cpu:
        return Unavailable("MLX computes on the GPU", expected=True)
    return library.load()


def missing_kernels() -> str | None:
    """A sentence for the log if there could be native kernels here and there are none."""
    found = kernels()
    if isinstance(found, Library) or found.expected:
        return None
    return f"no native kernels, so the models take two to four times as long and more memory: {found.reason}"


def user_environment() -> dict[str, str]:
    """The environment without the variables that `prepare` added, for a process that prepares its own."""
    prepared = prepare.cache_info().currsize > 0
    added = prepare().added_environment if prepared else frozenset()
    return {name: value for name, value in os.environ.items() if name not in added}


def core_affinity() -> tuple[frozenset[int] | None, ...]:
    """The core of each model thread and of the thread that MLX starts for it; None for any core.

    The two pass hundreds of operations to each other for every frame. On one core that is a queue;
    between two, each operation wakes a core that has just gone idle, which on a virtual machine
    takes longer than the operation (a step takes 13 ms instead of 8). No core is set where a
    product has several threads, which need the other cores, nor where ranks share a model, because
    MLX waits for the other ranks in a busy loop on a thread of its own.
    """
    pins = sys.platform == "linux" and prepare().on_cpu
    if not pins or os.environ[_THREADS] != "1" or launched_ranks().size > 1:
        return (None,) * STAGES
    # Threads beyond a CPU quota would use it up sooner, and be suspended together until its next period.
    cores = sorted(os.sched_getaffinity(0))[: min(STAGES, resources.usable_cores())]
    return tuple(frozenset({core}) for core in cores) if len(cores) > 1 else (None,)


@contextlib.contextmanager
def pinned_to(cores: frozenset[int] | None) -> Iterator[None]:
    """Keep the calling thread, and threads that it starts meanwhile, on `cores`; None changes nothing."""
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
    """Memory of this process's device that is free for a model now.

    On Metal this is the machine's memory, of which the system grants a part.
    """
    device = prepare().device
    available = resources.available_bytes()
    if device == "cpu":
        return available
    import mlx.core as mx  # noqa: PLC0415 - after prepare()

    info = mx.device_info()
    if device == "metal":
        return min(available, int(info["max_recommended_working_set_size"]))
    return int(info["free_memory"] if "free_memory" in info else info["total_memory"])


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank of this process among the `size` processes that share one model; rank 0 serves."""

    rank: int
    size: int


SINGLE_RANK = Ranks(0, 1)
# Variables of `mlx.launch` that name a file with one entry for each rank.
_RANK_FILES = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")


def launched_ranks() -> Ranks:
    """The rank that `mlx.launch` has put into the environment; `SINGLE_RANK` without it.

    Raises:
        ConfigError: the variables contradict each other.
    """
    rank = os.environ.get("MLX_RANK")
    if rank is None:
        return SINGLE_RANK
    size = 1
    try:
        if "MLX_WORLD_SIZE" in os.environ:
            size = int(os.environ["MLX_WORLD_SIZE"])
        for variable in _RANK_FILES:
            if variable in os.environ:
                listed = read_text(Path(os.environ[variable])).strip()
                size = len(parse_json(listed)) if listed else 1  # for a single rank the file is empty
        ranks = Ranks(int(rank), size)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError("MLX_RANK", f"the environment set by mlx.launch is not valid: {error}") from None
    if not 0 <= ranks.rank < ranks.size:
        raise ConfigError("MLX_RANK", f"{rank}, of {size} ranks")
    return ranks


@contextlib.contextmanager
def joined_group(within_s: float) -> "Iterator[mx.distributed.Group]":
    """Connect to the other ranks and run the block; the process ends by SIGALRM if that takes longer.

    MLX waits for the other ranks inside one call that holds the interpreter lock, so that only a
    signal can end it. To be called on the main thread.

    Raises:
        ConfigError: the other ranks cannot be reached.
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
