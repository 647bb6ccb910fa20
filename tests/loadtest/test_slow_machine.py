"""A slow machine: the share that is taken away, and what is measured of those that are admitted."""

import psutil
import pytest

from pipeline.loadtest import processor_share
from pipeline.loadtest.server_process import start_server
from pipeline.loadtest.slow_machine import Counts, load_steps, quality


async def test_clients_beyond_the_limit_wait_and_are_admitted_when_others_leave(checkpoint):
    """With half, once, twice and four times as many as run, and fewer again."""
    settings = ("lanes.max=2", "lanes.admit=2", "lanes.queue=8")
    with start_server(checkpoint, settings) as server:
        result = await load_steps(server, 2, 0.2, settle_s=0.3)
    assert result["violations"] == []
    assert [(s["offered"], s["running"], s["waiting"]) for s in result["steps"]] == [
        (1, 1, 0), (2, 2, 0), (4, 2, 2), (8, 2, 6), (4, 2, 2), (2, 2, 0), (1, 1, 0),
    ]  # fmt: skip
    assert {step["limit"] for step in result["steps"]} == {2}
    assert len(result["next_admitted_s"]) == 2
    assert result["told_s_max"] > 0


@pytest.mark.parametrize(
    ("seen", "answered", "worst", "underruns", "holds"),
    [
        ([Counts(100, 100, 0), Counts(100, 101, 0)], 1.0, 1.0, 0.0, True),
        ([Counts(100, 100, 0), Counts(100, 50, 50)], 0.75, 0.5, 0.25, False),
        ([Counts(1000, 1000, 0), Counts(1000, 1000, 20)], 1.0, 1.0, 0.01, False),
        ([], 1.0, 1.0, 0.0, True),
    ],
)
def test_quality_is_a_share_of_all_frames(seen, answered, worst, underruns, holds):
    """And shows the worst session; one per cent of underruns is too many."""
    assert quality(seen) == {
        "answered": answered, "answered_worst": worst, "underruns": underruns, "holds": holds,
    }  # fmt: skip


def test_without_cgroups_processes_compete_on_every_core(monkeypatch, tmp_path):
    """As many as leave about the share, and none of them afterwards."""
    for name in ("_V1", "_V2"):
        monkeypatch.setattr(processor_share, name, tmp_path / "missing")
    before = set(psutil.Process().children())
    with processor_share.processor_share(0.25) as share:
        started = set(psutil.Process().children()) - before
        cores = len(psutil.Process().cpu_affinity())
        assert (share.method, share.prefix) == ("competitors", ())
        assert len(started) == 3 * cores
        assert share.cores == cores / 4
    assert not any(process.is_running() for process in started)


def test_the_whole_processor_is_left_alone():
    """Nothing is made or started."""
    with processor_share.processor_share(1) as share:
        assert (share.method, share.prefix) == ("everything", ())
