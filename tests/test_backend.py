"""Core affinity, BLAS threads and the environment of the compute backend."""

import ctypes
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pipeline import backend
from pipeline.system import resources

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="cores are chosen on Linux alone")


def test_model_threads_get_different_cores_of_this_process() -> None:
    """There is an entry for each model thread, three at most, and no two share a core."""
    affinity = backend.core_affinity()
    assert 1 <= len(affinity) <= backend.STAGES
    cores = [core for pinned in affinity if pinned is not None for core in pinned]
    assert len(cores) == len(set(cores))
    if cores:
        assert set(cores) <= os.sched_getaffinity(0)


def test_ranks_of_one_model_are_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's thread that waits for the other ranks in a busy loop would share the core of a model thread."""
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_WORLD_SIZE", "2")
    assert set(backend.core_affinity()) == {None}


@on_linux
def test_a_thread_is_pinned_within_the_context_only() -> None:
    """Inside, it and the threads it starts are on the core; afterwards everything is as before."""
    before = os.sched_getaffinity(0)
    core = frozenset({max(before)})
    seen: dict[str, set[int]] = {}

    def record(name: str) -> None:
        seen[name] = os.sched_getaffinity(0)

    def pin() -> None:
        with backend.pinned_to(core):
            started = threading.Thread(target=record, args=("started inside",))
            started.start()
            started.join()
            record("inside")
        record("after")

    thread = threading.Thread(target=pin)
    thread.start()
    thread.join()
    assert seen == {"started inside": core, "inside": core, "after": before}
    assert os.sched_getaffinity(0) == before


def test_pinning_to_no_core_changes_nothing() -> None:
    """`None` stands for any core."""
    with backend.pinned_to(None):
        pass


@pytest.mark.skipif(backend.prepare().blas.name != "mkl", reason="only MKL reports its number of threads")
def test_one_session_of_a_large_model_gets_all_cores() -> None:
    """Products use all cores where memory bandwidth is the bound, and a third of them otherwise."""
    path = backend.prepare().blas.path
    assert path is not None
    max_threads = ctypes.CDLL(path).MKL_Get_Max_Threads
    before = os.environ.get("MKL_NUM_THREADS")
    try:
        backend.set_blas_threads(all_cores=True)
        threads = max_threads()
        affinity = backend.core_affinity()
    finally:
        backend.set_blas_threads(all_cores=False)
    assert before is not None
    assert threads in (resources.usable_cores(), int(before))  # the number that a user has set stays
    assert threads == 1 or affinity == (None,) * backend.STAGES
    assert max_threads() == int(before)


def test_a_child_process_does_not_inherit_what_prepare_added() -> None:
    """The variables set for this process are removed, so that they do not look like the user's settings."""
    code = (
        "import os; from pipeline import backend; given = dict(os.environ); backend.prepare();"
        "print(backend.user_environment() == given, 'MKL_NUM_THREADS' in os.environ)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]


def test_servers_find_the_same_file_for_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the folder of the user's session, else in that for temporary files; without either there is none."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert Path(backend._turns_path()).parent == tmp_path
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    assert Path(backend._turns_path()).parent == tmp_path / "temporary"

    def refuse() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    assert backend._turns_path() == ""
