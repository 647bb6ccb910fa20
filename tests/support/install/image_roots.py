"""Mounts the layers of an image stage to run commands in it, and runs the finished image as a container."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support.install.own_network import WITH_LOOPBACK

READY_S = 120.0


class StepError(Exception):
    """A step of the image failed, or the image does not behave as required."""


@dataclass
class Stage:
    """A stage during its build. `layers` are folders of files, the uppermost first."""

    name: str
    layers: list[Path]
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


class Mounted:
    """A stage's layers mounted as one tree; writes go to the uppermost layer."""

    def __init__(self, work: Path, stage: Stage, *, writable: bool = True) -> None:
        self.folder = work / "root"
        self._scratch = work / "scratch"
        self._stage = stage
        self._writable = writable
        self._mounts: list[Path] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        upper, *lower = self._stage.layers
        if self._writable:
            options = f"lowerdir={':'.join(map(str, lower))},upperdir={upper},workdir={self._scratch}"
        else:
            options = f"lowerdir={':'.join(map(str, self._stage.layers))}"
        self._mount("-t", "overlay", "overlay", "-o", options, at=self.folder)
        self._mount("-t", "proc", "proc", at=self.folder / "proc")
        self._mount("-t", "tmpfs", "tmpfs", at=self.folder / "dev")
        for device in ("null", "zero", "urandom", "random"):
            place = self.folder / "dev" / device
            place.touch()
            self._mount("--bind", f"/dev/{device}", at=place)
        (self.folder / "dev/shm").mkdir()
        self.memory("/dev/shm")
        return self

    def __exit__(self, *_: object) -> None:
        for place in reversed(self._mounts):
            do("umount", "--lazy", str(place))

    def bind(self, source: Path, target: str, *, writable: bool) -> None:
        """Bind-mount `source` at `target`, if it exists."""
        if not source.exists():
            return
        place = self.folder / target.lstrip("/")
        if source.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        self._mount("--bind", str(source), at=place)
        if not writable:
            do("mount", "-o", "remount,bind,ro", str(place))

    def memory(self, target: str) -> None:
        """Mount a tmpfs that every user can write to."""
        place = self.folder / target.lstrip("/")
        self._mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", at=place)

    def run(self, command: list[str], variables: dict[str, str]) -> None:
        """Run a command as root in the stage's working folder."""
        entered = ["chroot", str(self.folder), "/usr/bin/env", "-C", self._stage.folder, *command]
        done = subprocess.run(entered, env=variables, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise StepError(f"{' '.join(command)[:200]} ended with {done.returncode}")

    def _mount(self, *arguments: str, at: Path) -> None:
        do("mount", *arguments, str(at))
        self._mounts.append(at)


class Container:
    """The image's command, run as its user on a read-only root, in its own PID and network namespaces."""

    def __init__(self, root: Mounted, stage: Stage) -> None:
        self._enter = ["chroot", f"--userspec={stage.user}", str(root.folder)]
        self._enter += ["/usr/bin/env", "-i", "-C", stage.folder]
        self._enter += [f"{name}={value}" for name, value in stage.variables.items()]
        started = [*self._enter, *stage.entrypoint, *stage.command]
        self._process = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", *WITH_LOOPBACK, "setpriv", "--no-new-privs", *started]
        )

    @property
    def pid(self) -> int | None:
        """The host PID of its first process; None before its start and after its exit."""
        parent = self._process.pid
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run another command in it, like `docker exec`."""
        inside = ["nsenter", f"--target={self.pid}", "--net", "--pid", *self._enter, *command]
        return subprocess.run(inside, capture_output=True, text=True, check=False)

    def wait_until_healthy(self, check: list[str]) -> float:
        """Wait until the health check succeeds; the seconds it took."""
        began_s = time.monotonic()
        while self.run(*check).returncode:
            if self._process.poll() is not None:
                raise StepError(f"the container exited with {self._process.returncode}")
            if time.monotonic() - began_s > READY_S:
                raise StepError(f"the container was not healthy after {READY_S:g} s")
            time.sleep(1)
        return time.monotonic() - began_s

    def stop(self) -> int:
        """Stop it like `docker stop`; the exit code."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        """Kill it if it still runs."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()


def do(*command: str) -> None:
    """Run a system command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepError(f"{' '.join(command)}: {done.stderr.strip()}")
