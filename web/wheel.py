"""A wheel is whole, or there is none: without the third-party files of the lock file it is not built.

Setuptools runs this (`[tool.setuptools.cmdclass]`) on the bare source tree, so it imports nothing
of ours. An editable installation goes without: its server says what is missing.
"""

import json
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

_HERE = Path(__file__).parent


class WholeBuild(build_py):  # type: ignore[misc]  # setuptools has no types
    """`build_py`, which refuses while files are missing."""

    def run(self) -> None:
        """Check, then build.

        Raises:
            SetupError: names what is missing, and the command that fetches it.
        """
        lock = json.loads((_HERE / "vendor.lock.json").read_text(encoding="utf-8"))
        missing = [package["name"] for package in lock["packages"] if not _is_there(package)]
        if missing and not self.editable_mode:
            names = ", ".join(missing)
            raise SetupError(f"third-party files are missing ({names}): run python -m web.vendor first")
        super().run()


def _is_there(package: dict[str, object]) -> bool:
    folder = _HERE / "vendored" / f"{str(package['name']).rpartition('/')[2]}-{package['version']}"
    files = package["files"]
    assert isinstance(files, list)
    return all((folder / str(file).rpartition("/")[2]).is_file() for file in files)
