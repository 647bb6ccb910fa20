"""The native library, which `make` builds where there is a compiler."""

import os
from collections.abc import Iterator

import pytest

from pipeline import backend
from pipeline.kernels.library import Library


@pytest.fixture(scope="session")
def library() -> Library:
    """The library; without one the tests are skipped, except in CI."""
    found = backend.kernels()
    if isinstance(found, Library):
        return found
    if os.environ.get("CI") and not found.expected:
        pytest.fail(found.reason)
    pytest.skip(found.reason)


@pytest.fixture(params=["avx512vnni", "avx512", "avx2", "neon"])
def instruction_set(library: Library, request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor has; afterwards the best one is chosen again."""
    if not library.native.choose(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    library.native.choose(library.instruction_set)
