"""A wheel contains the third-party files of the lock file and the embedded model, or is not built."""

import shutil
from pathlib import Path

import pytest
from setuptools.dist import Distribution
from setuptools.errors import SetupError

from web import wheel
from web.vendor import read_lock

EMBEDDED = Path(__file__).parents[2] / "configs/tiny"
LOCK = Path(wheel.__file__).parent / "vendor.lock.json"


def build_in(folder, monkeypatch):
    """The build step, with `folder` as the source tree."""
    monkeypatch.setattr(wheel, "_HERE", folder)
    shutil.copy(LOCK, folder)
    build = wheel.CompleteBuild(Distribution())
    build.build_lib = str(folder / "built")
    build.ensure_finalized()
    return build


def test_without_third_party_files_there_is_no_wheel(tmp_path, monkeypatch):
    """The error names what is missing and the command that fetches it; with all files the wheel is built."""
    build = build_in(tmp_path, monkeypatch)
    for package in read_lock():
        with pytest.raises(SetupError, match=rf"{package.name}.*python -m web\.vendor"):
            build.run()
        folder = tmp_path / "vendored" / package.slug
        folder.mkdir(parents=True)
        for file in package.files:
            (folder / file.rpartition("/")[2]).touch()
    build.run()
    embedded = tmp_path / "built/pipeline/configs/tiny"
    assert {path.name for path in embedded.iterdir()} == {path.name for path in EMBEDDED.iterdir()}
    assert str(embedded / "config.json") in build.get_outputs()


def test_an_editable_installation_needs_no_third_party_files(tmp_path, monkeypatch):
    """It runs from the source tree; its pages report missing files."""
    build = build_in(tmp_path, monkeypatch)
    build.editable_mode = True
    build.run()
