"""The environment of `mlx.launch` is parsed, and contradictions are refused."""

import json
from pathlib import Path

import pytest

from pipeline.backend import SINGLE_RANK, Ranks, launched_ranks
from pipeline.errors import ConfigError

VARIABLES = ("MLX_RANK", "MLX_HOSTFILE", "MLX_WORLD_SIZE", "MLX_IBV_DEVICES")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    """There is nothing to connect to."""
    assert launched_ranks() == SINGLE_RANK


def test_a_ring_has_as_many_ranks_as_its_file_has_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a single one, the launcher's file is empty."""
    hosts = tmp_path / "hosts"
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    monkeypatch.setenv("MLX_RANK", "1")
    hosts.write_text(json.dumps([["10.0.0.1:5000"], ["10.0.0.2:5000"], ["10.0.0.3:5000"]]))
    assert launched_ranks() == Ranks(1, 3)
    monkeypatch.setenv("MLX_RANK", "0")
    hosts.write_text("\n")
    assert launched_ranks() == SINGLE_RANK


def test_nccl_has_a_variable_for_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`MLX_WORLD_SIZE`."""
    monkeypatch.setenv("MLX_RANK", "3")
    monkeypatch.setenv("MLX_WORLD_SIZE", "4")
    assert launched_ranks() == Ranks(3, 4)


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("-1", "2"), ("one", "2"), ("0", "two")])
def test_a_contradiction_is_a_configuration_error(
    rank: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, before anything is connected."""
    monkeypatch.setenv("MLX_RANK", rank)
    monkeypatch.setenv("MLX_WORLD_SIZE", size)
    with pytest.raises(ConfigError):
        launched_ranks()


def test_a_missing_file_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names it."""
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="absent"):
        launched_ranks()
