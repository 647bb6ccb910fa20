"""The capacity plan follows from its assumptions, and the documentation shows its tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.capacity import main, measured_here, plan, table
from pipeline.diagnostics.capacity_plan import SPARE_REPLICAS, link_bytes_per_s, replica_capacities
from pipeline.errors import StartupError
from pipeline.protocol import outgoing
from pipeline.protocol.packets import Packet, encode
from pipeline.units import FRAME_MS, FRAME_SAMPLES

ROOT = Path(__file__).parents[2]


def test_the_documentation_shows_the_tables():
    """docs/how-to/scaling.md has both tables for 1000 sessions."""
    page = (ROOT / "docs/how-to/scaling.md").read_text(encoding="utf-8")
    for part in table(plan(1000, None, None)).split("\n\n"):
        assert part in page


@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_all_sessions_fit_while_one_replica_is_down(sessions, lanes):
    """One replica fewer would not be enough."""
    (row,) = plan(sessions, lanes, None)["replicas"]
    assert (row["replicas"] - SPARE_REPLICAS) * lanes >= sessions
    assert (row["replicas"] - SPARE_REPLICAS - 1) * lanes * 0.8 < sessions


def test_the_overhead_of_a_link_is_small():
    """TCP, IP and Ethernet add at most 15 % to the packets of 12.5 frames per second."""
    frame = outgoing.audio(bytes(4 * FRAME_SAMPLES), 0.0)
    packet = encode(Packet(frame.type, frame.priority, 0, 0.0, frame.payload, wants_ack=False))
    bare = len(packet) * 1000 / FRAME_MS
    assert bare < link_bytes_per_s() < 1.15 * bare


def test_computed_bounds_are_marked():
    """One row is measured; the others are upper bounds, printed with ≤."""
    assert [each.machine for each in replica_capacities() if each.measured] == ["2 x86-64 cores"]
    for row in table(plan(1000, None, None)).split("\n\n")[0].splitlines()[2:]:
        assert ("≤" in row) != row.startswith("| 2 x86-64 cores")


def test_a_price_is_given_per_hour_and_per_session(capsys):
    """It is multiplied by the replicas and divided by the sessions."""
    assert main(["--sessions", "100", "--lanes", "20", "--price", "3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["replicas"]
    assert (row["replicas"], row["per_hour"], row["per_session_hour"]) == (8, 24, 0.24)


def test_this_machine_is_measured_with_the_given_model(checkpoint):
    """In place of the machine of the documentation; lanes given by hand are not measured."""
    command = [sys.executable, "-m", "pipeline", "capacity", "--config", str(checkpoint), "--json"]
    done = subprocess.run([*command, "--set", "lanes.max=2"], capture_output=True, text=True, check=True)
    first, *others = json.loads(done.stdout)["replicas"]
    assert (first["machine"], first["measured"]) == ("this machine", True)
    assert 0 <= first["lanes"] <= 2
    assert not any(row["measured"] for row in others)


def test_a_model_that_cannot_be_loaded_is_an_error_only_where_it_was_asked_for(tmp_path, monkeypatch):
    """Without one, the documented machine takes the place of this one."""
    with pytest.raises(StartupError):
        measured_here(tmp_path / "missing", [])
    monkeypatch.setattr("pipeline.cli.capacity.embedded", lambda: tmp_path / "missing")
    assert measured_here(None, []) is None


@pytest.mark.parametrize("arguments", [["--sessions", "0"], ["--lanes", "many"]])
def test_an_invalid_number_is_a_usage_error(arguments, capsys):
    """The exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
