"""Cores and memory are counted as granted to this process, by either version of cgroups."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import backend
from pipeline.loadtest.processor_share import processor_share
from pipeline.system import resources

V2 = "42 32 0:29 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
GIB = 2**30
MINE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_2(root: Path, member: str = "/a/b", mounts: str = V2, **groups: str) -> Path:
    files = {name.replace("__", "/").replace("_", ".", 1): text for name, text in groups.items()}
    return tree(root, {"proc/self/cgroup": f"0::{member}\n", "proc/self/mountinfo": mounts} | files)


@pytest.mark.skipif(sys.platform != "linux", reason="no such limit is enforced here")
def test_a_limit_of_the_shell_counts():
    """`ulimit -v` leaves a process less than the machine has free."""
    command = "from pipeline.system import resources; print(resources.available_bytes())"
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -v 2000000; exec "$0" -c "$1"', sys.executable, command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 2_000_000 * 1024 - 2**30


def test_without_cgroups_the_affinity_counts(tmp_path):
    """No /proc, as on macOS, or no cgroup mounted: what the scheduler grants."""
    assert resources.granted_cores(tmp_path) == MINE
    assert resources.available_bytes(tmp_path) > 0


@pytest.mark.parametrize(
    ("own", "above", "cores"),
    [
        ("25000 100000", "max 100000", 0.25),
        ("max 100000", "50000 100000", 0.5),
        ("max 100000", "max 100000", MINE),
    ],
)
def test_the_tightest_quota_on_the_way_up_counts(tmp_path, own, above, cores):
    """A limit of a cgroup above this one binds as well."""
    root = version_2(tmp_path)
    tree(root, {"sys/fs/cgroup/a/b/cpu.max": own, "sys/fs/cgroup/a/cpu.max": above})
    assert resources.granted_cores(root) == cores
    assert resources.usable_cores(root) == max(1, round(cores))


def test_a_container_sees_its_own_cgroup_as_the_root(tmp_path):
    """With the hierarchy mounted from this process's cgroup on, its files lie at the mount itself."""
    mounts = V2.replace(" / /sys", " /docker/c1 /sys")
    root = version_2(tmp_path, member="/docker/c1", mounts=mounts)
    tree(root, {"sys/fs/cgroup/cpu.max": "10000 100000", "sys/fs/cgroup/memory.max": str(GIB)})
    tree(root, {"sys/fs/cgroup/memory.current": "0"})
    assert resources.granted_cores(root) == 0.1
    assert resources.total_bytes(root) == GIB


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path):
    """And says -1, or a number near 2^63, where there is no limit."""
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/m\n2:cpu,cpuacct:/c/d\n0::/\n",
            "proc/self/mountinfo": V1,
            "sys/fs/cgroup/cpu,cpuacct/c/d/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/c/d/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "20000",
            "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/m/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/m/memory.usage_in_bytes": str(GIB // 2),
            "sys/fs/cgroup/memory/m/memory.stat": f"cache 9\ntotal_inactive_file {GIB // 4}",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
        },
    )
    assert resources.granted_cores(root) == 0.2
    assert resources.total_bytes(root) == GIB
    assert resources.available_bytes(root) == GIB * 3 // 4


def test_memory_in_use_is_not_available(tmp_path):
    """But page cache that the kernel would drop is; more in use than allowed is nothing available."""
    root = version_2(tmp_path, member="/a")
    files = {
        "memory.max": str(GIB),
        "memory.current": str(GIB),
        "memory.stat": f"anon 1\ninactive_file {GIB // 8}",
    }
    tree(root, {f"sys/fs/cgroup/a/{name}": text for name, text in files.items()})
    assert resources.available_bytes(root) == GIB // 8
    tree(root, {"sys/fs/cgroup/a/memory.current": str(3 * GIB)})
    assert resources.available_bytes(root) == 0


@pytest.mark.parametrize("text", ["", "nonsense", "max", "100000 0", "-5 100000"])
def test_what_cannot_be_read_limits_nothing(tmp_path, text):
    """A file of a form that this does not know is passed over."""
    root = tree(version_2(tmp_path, member="/"), {"sys/fs/cgroup/cpu.max": text})
    assert resources.granted_cores(root) == MINE


def test_a_real_quota_is_seen_wherever_cores_are_counted():
    """In a cgroup of half a core: one thread for each product, and one for all models, on any core."""
    code = (
        "import json; from pipeline import backend; from pipeline.system import resources; "
        "from pipeline.diagnostics import microbenchmarks; backend.prepare(); "
        "print(json.dumps([resources.granted_cores(), microbenchmarks.describe()['cores'], "
        "backend._stage_threads(), len(backend.core_affinity())]))"
    )
    with processor_share(0.5 / resources.granted_cores()) as share:
        if share.method != "cgroup":
            pytest.skip("needs a cgroup that this user may make")
        command = [*share.prefix, sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0.5, 0.5, 1, 1]


def test_memory_of_a_cgroup_counts_for_models(monkeypatch):
    """What is free for a model is what this process may still take."""
    monkeypatch.setattr(resources, "available_bytes", lambda: GIB)
    assert backend.prepare().device != "cpu" or backend.free_bytes() == GIB
