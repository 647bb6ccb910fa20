"""What counts under a flood is the neighbour."""

import json

import pytest

from pipeline.cli import loadtest
from pipeline.loadtest import flooding

CALM = {
    "answered_percent": 100.0,
    "worst_before_ms": 40.0,
    "worst_ms": 200.0,
    "live_s": 0.2,
}


@pytest.mark.parametrize(
    ("worse", "violations"),
    [
        ({}, 0),
        ({"answered_percent": 97.9}, 1),
        ({"worst_ms": 541.0}, 1),
        ({"live_s": 1.1}, 1),
        ({"answered_percent": 10.0, "worst_ms": 8000.0, "live_s": 25.0}, 3),
    ],
)
def test_a_neighbour_that_notices_is_a_violation(worse, violations):
    """Unanswered frames, late answers and a slow /health/live, each on its own."""
    assert len(flooding._violations(CALM | worse)) == violations


def test_every_flood_is_measured(monkeypatch, capsys):
    """Each runs against a real server, which goes on answering and logs no error."""
    monkeypatch.setattr(flooding, "CALM_S", 0.5)
    monkeypatch.setattr(flooding, "FLOOD_S", 0.5)
    loadtest.main(["--config", "configs/tiny", "--flood", "all", "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["flood"]
    assert result["floods"].keys() == flooding.FLOODS.keys()
    assert [each for each in result["violations"] if each.startswith(("logged", "after"))] == []
