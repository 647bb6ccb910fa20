"""Two ranks equal one process: the same logits and tokens, with half of the memory each."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_folder
from support.tensor_parallel.ranks_rig import ROOT, SHARED, ranks

from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.random_init import lm_tensors
from pipeline.models.sharding import Shard

SCRIPT = str(ROOT / "tests/support/tensor_parallel/one_rank.py")
CONFIG = parse_lm_config(SHARED)
IMPORTS = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


class Outcome:
    """What a run of `one_rank.py` found, and what each of its processes printed."""

    def __init__(self, file: Path, printed: list[str]) -> None:
        with np.load(file) as found:
            self.found = dict(found)
        self.printed: list[Mapping[str, Any]] = [
            {
                name: value
                for line in each.splitlines()
                if line[0] == "{"
                for name, value in json.loads(line).items()
            }
            for each in printed
        ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = write_folder(tmp_path_factory.mktemp("alone"), lm=SHARED)
    command = [sys.executable, SCRIPT, str(folder), str(folder / "out.npz")]
    done = subprocess.run(
        command, env={**os.environ, **IMPORTS}, capture_output=True, text=True, timeout=60, check=True
    )
    return Outcome(folder / "out.npz", [done.stdout])


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = write_folder(tmp_path_factory.mktemp("together"), lm=SHARED)
    with ranks(SCRIPT, str(folder), str(folder / "out.npz"), env=IMPORTS) as both:
        assert [rank.ended() for rank in both] == [0, 0], [rank.output() for rank in both]
        return Outcome(folder / "out.npz", [rank.printed() for rank in both])


def test_the_logits_of_a_whole_sequence_are_those_of_one_process(alone: Outcome, together: Outcome) -> None:
    """To the rounding of float32, because sums are computed in two parts."""
    for name in ("text", "audio"):
        np.testing.assert_allclose(together.found[name], alone.found[name], atol=1e-5)
        assert np.nanstd(alone.found[name]) > 0.1


@pytest.mark.parametrize("session", ["greedy", "drawn", "shaped", "again"])
def test_sessions_get_the_tokens_of_one_process(alone: Outcome, together: Outcome, session: str) -> None:
    """Beyond the context, in batches of one to three, with lanes opened, configured and closed in between."""
    np.testing.assert_array_equal(together.found[session], alone.found[session])
    assert len(np.unique(alone.found[session])) > 3


def test_each_rank_holds_its_shard_and_nothing_else(alone: Outcome, together: Outcome) -> None:
    """Weights as planned, half of the rings; while loading, one tensor more, and that in two forms."""
    shapes = {name: shape for name, shape in lm_tensors(CONFIG) if "norm" not in name}
    largest = 4 * max(int(np.prod(shape)) for shape in shapes.values())
    whole = alone.printed[0]
    for rank, printed in enumerate(together.printed):
        assert printed["weights"] < 0.65 * whole["weights"]  # so small a model is half tables
        assert printed["rings"] == whole["rings"] // 2
        assert printed["peak"] < printed["weights"] + 3 * largest + tables(rank)
    assert together.printed[0]["weights"] == together.printed[1]["weights"]


def tables(rank: int) -> int:
    """Bytes of the embedding tables, which are concatenated and therefore held twice for a moment."""
    shard = Shard(rank, 2)
    return 4 * sum(
        int(np.prod(shape))
        for name, shape in lm_tensors(CONFIG)
        if "emb" in name and shard.spec(CONFIG, name) is None
    )


def test_the_others_end_with_the_code_that_rank_0_gives(together: Outcome) -> None:
    """It is part of the last exchange."""
    assert together.printed[1]["ended"] == 7


def test_traffic_is_what_a_step_exchanges(alone: Outcome, together: Outcome) -> None:
    """As often and as much as computed from the sizes; one process exchanges nothing."""
    planned = Shard(0, 2).traffic(CONFIG, width=1, number_bytes=4)
    assert alone.printed[0]["exchanges"] == 0
    for printed in together.printed:
        assert (printed["exchanges"], printed["sent"]) == (planned.exchanges, planned.sent_bytes)
