"""What dialects cost, measured on a server in a process of its own."""

from pathlib import Path

import trio

from pipeline.diagnostics.dialect_cost import time_dialects
from pipeline.loadtest.dialects import measure_dialects
from pipeline.loadtest.server_process import start_server

ROOT = Path(__file__).parent.parent.parent
DIALECTS = ["packets", "live", "realtime", "moshi"]


def test_each_dialect_is_measured():
    """Its sessions are answered, and have a latency and processor time beside those of `/ws`."""
    with start_server(ROOT / "configs/tiny", ["lanes.max=2", "lanes.admit=2"]) as server:
        result = trio.run(measure_dialects, server, 2, 1.0, 1)
    assert result["violations"] == []
    assert [row["dialect"] for row in result["dialects"]] == DIALECTS
    for row in result["dialects"]:
        assert row["added_p99_ms"] >= row["added_p50_ms"] > 0
        assert row["process_ms_per_s"] >= row["loop_ms_per_s"] > 0
        if row["dialect"] != "realtime":  # whose client gets sound only while the model speaks
            assert row["sound_frames"] > 8


def test_the_messages_of_each_dialect_are_timed():
    """Both directions, without a server."""
    times = time_dialects(20)
    assert list(times) == DIALECTS
    for row in times.values():
        assert row["p99_us"] >= row["p50_us"] >= max(row["decode_us"], row["encode_us"]) > 0
