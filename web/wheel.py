"""Build step of the wheel: requires the third-party files, and includes the embedded model.

The model goes into the wheel as `pipeline/configs/tiny/`, because in the source tree it is outside the
packages. Setuptools runs this (`[tool.setuptools.cmdclass]`) on the bare source tree, so it imports
nothing of ours. An editable installation may lack the third-party files.
"""

import json
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

_HERE = Path(__file__).parent
_EMBEDDED = Path("configs", "tiny")  # beside pyproject.toml, where setuptools runs


class CompleteBuild(build_py):  # type: ignore[misc]  # setuptools has no types
    """`build_py` that fails while third-party files are missing, and adds the embedded model."""

    def run(self) -> None:
        """Check the third-party files, then build.

        Raises:
            SetupError: names the missing packages, and the command that fetches them.
        """
        lock = json.loads((_HERE / "vendor.lock.json").read_text(encoding="utf-8"))
        missing = [package["name"] for package in lock["packages"] if not _is_installed(package)]
        if missing and not self.editable_mode:
            names = ", ".join(missing)
            raise SetupError(f"third-party files are missing ({names}): run python -m web.vendor first")
        super().run()
        if not self.editable_mode:
            self.copy_tree(str(_EMBEDDED), str(self._model_folder))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:  # noqa: FBT001, FBT002 - setuptools' own
        """All files of the build."""
        files: list[str] = super().get_outputs(include_bytecode)
        return files + [str(self._model_folder / file.name) for file in sorted(_EMBEDDED.iterdir())]

    @property
    def _model_folder(self) -> Path:
        return Path(self.build_lib, "pipeline") / _EMBEDDED


def _is_installed(package: dict[str, object]) -> bool:
    folder = _HERE / "vendored" / f"{str(package['name']).rpartition('/')[2]}-{package['version']}"
    files = package["files"]
    assert isinstance(files, list)
    return all((folder / str(file).rpartition("/")[2]).is_file() for file in files)
