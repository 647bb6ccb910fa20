"""What counts under a flood is the neighbour."""

import json
from array import array

import pytest
import trio

from pipeline.cli import loadtest
from pipeline.loadtest import flooding

CALM = {
    "answered_percent": 100.0,
    "worst_before_ms": 40.0,
    "worst_ms": 200.0,
    "live_s": 0.2,
    "put_back": 0,
    "processor_wait_percent": 3.0,
}


@pytest.mark.parametrize(
    ("worse", "violations"),
    [
        ({}, 0),
        ({"answered_percent": 97.9}, 1),
        ({"worst_ms": 541.0}, 1),
        ({"live_s": 1.1}, 1),
        ({"put_back": 1}, 1),
        ({"answered_percent": 10.0, "worst_ms": 8000.0, "live_s": 25.0}, 3),
    ],
)
def test_a_neighbour_that_notices_is_a_violation(worse, violations):
    """Unanswered frames, late answers and a slow /health/live, each on its own."""
    assert len(flooding._violations(CALM | worse)) == violations


def test_a_violation_on_a_busy_machine_says_so():
    """It remains one; without it, nothing is to be explained."""
    busy = {"processor_wait_percent": 72.8}
    (violation,) = flooding._violations(CALM | busy | {"live_s": 1.1})
    assert "waited for a processor 72.8 %" in violation
    assert flooding._violations(CALM | busy) == []


async def test_a_refused_probe_is_no_fast_one():
    """What closes at once has not answered /health/live."""
    live_s = array("d")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    class Refusing:
        port, tls = listener.socket.getsockname()[1], None

    async def refuse(stream):
        await stream.aclose()
        if live_s:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        nursery.start_soon(flooding._probe, Refusing, live_s)
    assert set(live_s) == {flooding.FLOOD_S}


def test_every_flood_is_measured(monkeypatch, capsys):
    """Each runs against a real server, which goes on answering and logs no error."""
    monkeypatch.setattr(flooding, "CALM_S", 0.5)
    monkeypatch.setattr(flooding, "FLOOD_S", 0.5)
    loadtest.main(["--config", "configs/tiny", "--flood", "all", "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["flood"]
    assert result["floods"].keys() == flooding.FLOODS.keys()
    assert [each for each in result["violations"] if each.startswith(("logged", "after"))] == []
