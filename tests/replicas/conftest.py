"""Three replicas behind the real balancer, all running at the start of each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkpoints import LM, write_folder

from pipeline.loadtest.cluster import Cluster, start_cluster
from pipeline.loadtest.haproxy import HAPROXY

SETTINGS = (
    "lanes.max=2",
    "lanes.admit=2",
    "lanes.queue=1",
    "limits.resume_grace_ms=3000",
    "sampling.temperature=0",
    "sampling.text_temperature=0",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if HAPROXY is None and "CI" not in os.environ and here in item.path.parents:
            item.add_marker(pytest.mark.skip("no HAProxy (Debian: apt-get install haproxy)"))


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = write_folder(tmp_path_factory.mktemp("replicas"), lm=LM)
    with start_cluster(folder, SETTINGS, 3) as cluster:
        yield cluster


@pytest.fixture
def servers(started: Cluster) -> Cluster:
    """The cluster, with every replica running and every lane free."""
    started.start_missing()
    started.wait_until_idle()
    return started
