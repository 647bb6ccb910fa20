"""The plan on paper follows from its premises, and the page shows what the command prints."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.capacity import main, plan, table
from pipeline.diagnostics.capacity_plan import SPARE, link_bytes_per_s, rooms
from pipeline.protocol import outgoing
from pipeline.protocol.packets import Packet, encode
from pipeline.units import FRAME_MS, FRAME_SAMPLES

ROOT = Path(__file__).parents[2]


def test_the_page_shows_what_the_command_prints():
    """docs/how-to/scaling.md holds both tables for a thousand sessions."""
    page = (ROOT / "docs/how-to/scaling.md").read_text(encoding="utf-8")
    for part in table(plan(1000, None, None)).split("\n\n"):
        assert part in page


@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_everybody_fits_also_while_a_replica_is_away(sessions, lanes):
    """And one replica fewer would not do."""
    (row,) = plan(sessions, lanes, None)["replicas"]
    assert (row["replicas"] - SPARE) * lanes >= sessions
    assert (row["replicas"] - SPARE - 1) * lanes * 0.8 < sessions


def test_a_link_carries_at_least_what_is_said():
    """The bytes of 12.5 frames a second, and a tenth more at most for their way."""
    said = outgoing.audio(bytes(4 * FRAME_SAMPLES), 0.0)
    packet = encode(Packet(said.type, said.priority, 0, 0.0, said.payload, wants_ack=False))
    bare = len(packet) * 1000 / FRAME_MS
    assert bare < link_bytes_per_s() < 1.15 * bare


def test_what_was_not_measured_says_so():
    """One row rests on a measurement; the others are bounds, and are written as such."""
    assert [room.machine for room in rooms() if room.measured] == ["2 x86-64 cores"]
    for row in table(plan(1000, None, None)).split("\n\n")[0].splitlines()[2:]:
        assert ("≤" in row) != row.startswith("| 2 x86-64 cores")


def test_a_price_is_multiplied(capsys):
    """By the replicas, and divided by the sessions; `--json` says the same."""
    assert main(["--sessions", "100", "--lanes", "20", "--price", "3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["replicas"]
    assert (row["replicas"], row["per_hour"], row["per_session_hour"]) == (8, 24, 0.24)


@pytest.mark.parametrize("arguments", [["--sessions", "0"], ["--lanes", "many"]])
def test_a_wrong_number_is_a_usage_error(arguments, capsys):
    """Exit code 2, one sentence."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
