"""What tests of several rooms share. Importing it chooses the backend, before any test imports MLX."""

from pathlib import Path

import pytest
from hypothesis import settings
from support.checkpoints import write_folder

# A deadline per example would be an assertion on time, and false on a busy machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real checkpoint folder; tests only read it."""
    return write_folder(tmp_path_factory.mktemp("checkpoint"))
