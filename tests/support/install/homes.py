"""An empty home folder for tests of `make install`.

The dependencies, pip included, are linked from this environment, so the tests download nothing and pip
installs only the project.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[3]
OURS = ("packet_voice", "__editable__")


class Home:
    """A home folder, its paths, and the environment variables of its user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / ".local/share/packet-voice/venv"
        self.command = folder / ".local/bin/packet-voice"
        self.config = folder / ".config/packet-voice"
        self.unit = folder / ".config/systemd/user/packet-voice.service"
        kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment["HOME"] = str(folder)
        # For pip: use the linked packages, setuptools included.
        self.installing = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}

    def prepare(self) -> None:
        """Create the virtual environment with everything except the project."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True)
        links = self.folder / "linked"
        links.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(OURS) and path.suffix != ".pth":
                (links / path.name).symlink_to(path)
        there = next(self.venv.glob("lib/python*/site-packages"))
        (there / "linked.pth").write_text(f"{links}\n")
        for library in (*Path(sys.prefix, "lib").glob("libmkl*"), *Path(sys.prefix, "lib").glob("libiomp*")):
            (self.venv / "lib" / library.name).symlink_to(library)

    def undo_preparation(self) -> None:
        """Remove the links that `prepare` created."""
        shutil.rmtree(self.folder / "linked")

    def files(self) -> set[str]:
        """Every file with our name in its path, except in the environment; other tools leave files too."""
        environment = str(self.venv.relative_to(self.folder))
        names = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir())
        return {name for name in names if "packet-voice" in name and not name.startswith(environment)}
