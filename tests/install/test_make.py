"""What `make run` says where something is missing: a real make, with a Python that lacks it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python as it is where `{lacks}` fails; everything else succeeds without doing anything.
LACKING = """#!/bin/sh
case "$*" in *"{lacks}"*) echo "own words" >&2; exit 1;; esac
case "$*" in "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";; esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What make looks at in a checkout before anything is installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "web").mkdir()
    shutil.copy(ROOT / "web/vendor.lock.json", tmp_path / "web")
    return tmp_path


def make(tree: Path, target: str, python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", target, f"PYTHON={python}", "BACKEND=cpu"],
        cwd=tree,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("lacks", "sentence"),
    [
        ("version_info", "Python 3.11 or newer is required; choose one with: make PYTHON=python3.12"),
        ("import ensurepip", "Python's venv module is missing (Debian: apt-get install python3-venv)"),
        ("-m venv", ".venv cannot be created here: is the folder writable, and the disk not full?"),
        (
            "-m pip",
            "The packages could not be installed, see above. It takes the network and free disk space;",
        ),
    ],
    ids=["version", "venv", "folder", "network"],
)
def test_what_is_missing_is_a_sentence(tree: Path, lacks: str, sentence: str) -> None:
    """Nothing is started, and the next attempt begins where this one failed."""
    python = tree / "python"
    python.write_text(LACKING.format(lacks=lacks))
    python.chmod(0o755)
    done = make(tree, "run", str(python))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("own words") == (lacks in ("version_info", "-m venv", "-m pip"))
    assert not (tree / ".venv/.setup").exists()
    assert (tree / ".venv").exists() == (lacks == "-m pip")
    assert "Starting" not in done.stderr


def test_a_python_that_is_not_there_is_a_sentence(tree: Path) -> None:
    """As on a machine without any."""
    done = make(tree, "run", "python-that-is-absent")
    assert done.returncode == 2
    assert "Python 3.11 or newer is required" in done.stderr


def test_a_whole_machine_starts_the_server(tree: Path) -> None:
    """So the sentences of the others are about what those lack."""
    python = tree / "python"
    python.write_text(LACKING.format(lacks="nothing of that"))
    python.chmod(0o755)
    done = make(tree, "run", str(python))
    assert done.returncode == 0
    assert "about 350 MB, a few minutes the first time" in done.stderr
    assert "Starting the server. It says what to open when it is ready" in done.stderr


def test_what_tests_are_skipped_for_want_of_is_told(tree: Path) -> None:
    """Each program by its name, as the README says; not one that is there."""
    (programs,) = re.findall(r"needs ((?:`[a-z-]+`(?:, | or )?)+) where", (ROOT / "README.md").read_text())
    needed = re.findall(r"`([a-z-]+)`", programs)
    assert set(needed) >= {"chromium", "haproxy", "espeak-ng", "npm"}
    (python := tree / "python").write_text(LACKING.format(lacks="nothing of that"))
    python.chmod(0o755)
    (tools := tree / "tools").mkdir()
    for name in ("make", "sh", "cat", "cp", "mkdir", "rm", "touch", "uname"):
        (tools / name).symlink_to(shutil.which(name) or name)
    always = {name for name in needed if shutil.which(name, path="/usr/sbin")}  # where make looks, too
    for installed in (set(), {"npm", "chromium"}):
        for name in installed:
            (tools / name).symlink_to(python)
        done = make(tree, "test", str(python), PATH=str(tools))
        assert done.returncode == 0, done.stderr
        told = re.findall(r"^([a-z-]+) is not installed: tests of .+ are skipped$", done.stderr, re.MULTILINE)
        assert told == [name for name in needed if name not in installed | always]
