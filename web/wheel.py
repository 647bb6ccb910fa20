"""A wheel is whole, or there is none: without the third-party files of the lock file it is not built.

The embedded model goes into it too, as `pipeline/configs/tiny/`: in the source tree it lies beside the
packages, where an installation has no place for it. Setuptools runs this (`[tool.setuptools.cmdclass]`)
on the bare source tree, so it imports nothing of ours. An editable installation goes without: its
server says what is missing.
"""

import json
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

_HERE = Path(__file__).parent
_EMBEDDED = Path("configs", "tiny")  # beside pyproject.toml, where setuptools runs


class WholeBuild(build_py):  # type: ignore[misc]  # setuptools has no types
    """`build_py`, which refuses while files are missing, and brings the embedded model."""

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
        if not self.editable_mode:
            self.copy_tree(str(_EMBEDDED), str(self._packed))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:  # noqa: FBT001, FBT002 - setuptools' own
        """What is built."""
        files: list[str] = super().get_outputs(include_bytecode)
        return files + [str(self._packed / file.name) for file in sorted(_EMBEDDED.iterdir())]

    @property
    def _packed(self) -> Path:
        return Path(self.build_lib, "pipeline") / _EMBEDDED


def _is_there(package: dict[str, object]) -> bool:
    folder = _HERE / "vendored" / f"{str(package['name']).rpartition('/')[2]}-{package['version']}"
    files = package["files"]
    assert isinstance(files, list)
    return all((folder / str(file).rpartition("/")[2]).is_file() for file in files)
