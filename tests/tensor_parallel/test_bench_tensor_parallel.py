"""The command measures ranks, and its estimates follow from the sizes."""

import json
import subprocess
import sys
from pathlib import Path

from support.checkpoints import write_folder
from support.tensor_parallel.ranks_rig import ROOT, SHARED

from pipeline.cli.bench_tensor_parallel import LINKS, estimate
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.sharding import Shard


def test_it_measures_one_process_and_two(tmp_path: Path) -> None:
    """Real steps in real processes; one of them exchanges nothing."""
    folder = write_folder(tmp_path, lm=SHARED, settings={"lanes": {"max": 1}})
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "bench-tensor-parallel",
        "--config",
        str(folder),
        "--steps",
        "3",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measured"]
    assert measured["1"]["exchanges"] == 0
    traffic = Shard(0, 2).traffic(parse_lm_config(SHARED), 1, 4)
    assert measured["2"]["exchanges"] == 1 + traffic.exchanges
    assert measured["2"]["sent_bytes"] > traffic.sent_bytes
    assert all(row["step_ms"]["p50"] > 0 for row in measured.values())


def test_the_estimate_is_reading_and_waiting() -> None:
    """Less to read than alone, and for each link what its exchanges and bytes take on top of it."""
    raw = json.loads((ROOT / "configs/moshi_7b_202409.json").read_text())
    estimated = estimate(parse_lm_config(raw), memory_gb_per_s=400)
    for way in estimated["depformer"].values():
        assert way["read_ms"] < 0.6 * estimated["alone_ms"]
        for link in LINKS:
            waits_ms = way["exchanges"] * link.latency_us / 1e3 + way["sent_kb"] * 1e6 / link.bytes_per_s
            assert abs(way["step_ms"][link.name] - way["read_ms"] - waits_ms) < 0.2
    assert estimated["depformer"]["whole"]["exchanges"] < estimated["depformer"]["cut"]["exchanges"]
    assert estimated["depformer"]["whole"]["rank_gb"] > estimated["depformer"]["cut"]["rank_gb"]
