"""Where models compute, and that nobody else is moved there."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from pipeline import backend

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="cores are chosen on Linux alone")


def test_every_home_is_a_core_of_this_process() -> None:
    """There is a home for each thread that computes, three at most, and no two share a core."""
    homes = backend.homes()
    assert 1 <= len(homes) <= backend.STAGES
    cores = [core for home in homes if home is not None for core in home]
    assert len(cores) == len(set(cores))
    if cores:
        assert set(cores) <= os.sched_getaffinity(0)


def test_ranks_of_one_model_have_no_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never rests, waiting for the other ranks, would share the core of those that compute."""
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_WORLD_SIZE", "2")
    assert set(backend.homes()) == {None}


@on_linux
def test_a_thread_stays_only_as_long_as_it_is_told() -> None:
    """Inside, it and the threads it starts are on the core; outside, and elsewhere, nothing changed."""
    before = os.sched_getaffinity(0)
    core = frozenset({max(before)})
    seen: dict[str, set[int]] = {}

    def note(name: str) -> None:
        seen[name] = os.sched_getaffinity(0)

    def stay() -> None:
        with backend.staying_at(core):
            started = threading.Thread(target=note, args=("started inside",))
            started.start()
            started.join()
            note("inside")
        note("after")

    thread = threading.Thread(target=stay)
    thread.start()
    thread.join()
    assert seen == {"started inside": core, "inside": core, "after": before}
    assert os.sched_getaffinity(0) == before


def test_who_has_no_home_may_be_anywhere() -> None:
    """Staying at no core in particular changes nothing."""
    with backend.staying_at(None):
        pass


@pytest.mark.skipif(backend.prepare().blas.name != "mkl", reason="only MKL says how many threads it takes")
def test_a_lone_big_model_has_all_cores_for_a_product() -> None:
    """Products take all cores where one session is served from memory, and a share of them otherwise."""
    path = backend.prepare().blas.path
    assert path is not None
    most = ctypes.CDLL(path).MKL_Get_Max_Threads
    asked = os.environ.get("MKL_NUM_THREADS")
    try:
        backend.divide_cores(lone=True)
        alone = most()
        homes = backend.homes()
    finally:
        backend.divide_cores(lone=False)
    assert asked is not None
    assert alone in (os.cpu_count(), int(asked))  # whoever set a number keeps it
    assert alone == 1 or homes == (None,) * backend.STAGES
    assert most() == int(asked)


def test_a_process_that_is_started_chooses_for_itself() -> None:
    """What was put into the environment for this process does not look like the user's wish to the next."""
    asks = (
        "import os; from pipeline import backend; given = dict(os.environ); backend.prepare();"
        "print(backend.users_environment() == given, 'MKL_NUM_THREADS' in os.environ)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]
