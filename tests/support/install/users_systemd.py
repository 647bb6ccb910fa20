"""The real systemd user manager in a mount namespace of its own, for tests of the service.

Root can start one anywhere: it needs a /run that looks as if systemd had booted the machine, and a control
group for its services. Other users already have a manager, which tests must not touch.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
RUNTIME = "/run/user/0"
GROUP = f"packet-voice-{os.getpid()}"
TIMEOUT_S = 30.0
START = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mkdir -m 700 -p "$XDG_RUNTIME_DIR"
for group in $GROUPS_HERE; do mkdir "$group"; echo $$ > "$group/cgroup.procs"; done
exec "$SYSTEMD" --user --log-target=console --log-level=warning
"""


@dataclass(frozen=True, slots=True)
class UsersSystemd:
    """A running user manager; `environment` is that of its user's shell."""

    pid: int
    environment: Mapping[str, str]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in its namespace and wait for it."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--mount", f"--wd={Path.cwd()}", *command],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def property(self, name: str) -> str:
        """A property of the service."""
        unit = "packet-voice.service"
        return self.run("systemctl", "--user", "show", "--value", f"--property={name}", unit).stdout.strip()


def missing() -> str | None:
    """Why no user manager can be started here; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can start a separate systemd"
    if not SYSTEMD.is_file() or any(
        shutil.which(tool) is None for tool in ("unshare", "nsenter", "systemctl")
    ):
        return "systemd is not installed (Debian: apt-get install systemd)"
    if not all(os.access(group.parent, os.W_OK) for group in groups()) or not groups():
        return "control groups cannot be created"
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/run"], check=False)
    return None if tried.returncode == 0 else "mount namespaces are not available"


def groups() -> list[Path]:
    """The paths of its control group, in each hierarchy that systemd uses."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(place, GROUP))
    return found


@contextmanager
def users_systemd(environment: Mapping[str, str]) -> Iterator[UsersSystemd]:
    """Run a user manager until the context ends; its services end with it."""
    inside = {**environment, "XDG_RUNTIME_DIR": RUNTIME}
    own = {"GROUPS_HERE": " ".join(map(str, groups())), "SYSTEMD": str(SYSTEMD)}
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", START],
        env={**inside, **own},
        stdin=subprocess.DEVNULL,
    )
    started = UsersSystemd(process.pid, inside)
    try:
        until(lambda: started.run("systemctl", "--user", "show", "--property=Version").returncode == 0)
        yield started
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
            for group in groups():
                for folder in sorted(group.rglob("*/"), reverse=True):
                    folder.rmdir()
                group.rmdir()


def until(holds, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until `holds()` is true because of another process."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "the condition did not become true in time"
        time.sleep(0.1)
