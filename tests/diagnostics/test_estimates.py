"""The estimates for published models follow from the measurements and the sizes."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import LM

from pipeline.diagnostics.cost_model import step_cost
from pipeline.diagnostics.estimates import USABLE_MS, Measurements, estimate, layer_s
from pipeline.diagnostics.stage_timing import StageTimes
from pipeline.models.checkpoint.lm_config import parse_lm_config

ROOT = Path(__file__).parents[2]
GIB = 2**30


def test_memory_matches_the_table_of_models() -> None:
    table = (ROOT / "docs/reference/models.md").read_text()
    measured = Measurements(1e9, {k: {1: 1e-9} for k in ("float32", "bfloat16", "8 bits", "4 bits")}, 0.0, {})
    for model, repository, kept in (
        ("Moshi 7B", "kyutai/moshiko-mlx-bf16", "bfloat16"),
        ("Moshi 7B", "kyutai/moshiko-mlx-q8", "8 bits"),
        ("Moshi 7B", "kyutai/moshiko-mlx-q4", "4 bits"),
        ("Hibiki 2B", "kyutai/hibiki-2b-mlx-bf16", "bfloat16"),
    ):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{repository}`"))
        figures = re.search(r"\| ([\d.]+) \+ ([\d.]+) \| ([\d.]+) \+ ([\d.]+) \|", row)
        assert figures is not None
        one, further, on_cpu, further_on_cpu = map(float, figures.groups())
        found = estimate(model, kept, measured, 0)  # type: ignore[arg-type]
        assert found.one_lane_bytes / GIB == pytest.approx(one, abs=0.1)
        assert found.lane_bytes / GIB == pytest.approx(further, abs=0.1)
        stored = estimate(model, kept, measured, 0, on_cpu=True)  # type: ignore[arg-type]
        assert stored.one_lane_bytes / GIB == pytest.approx(on_cpu, abs=0.1)
        assert stored.lane_bytes / GIB == pytest.approx(further_on_cpu, abs=0.1)


def measured(product_s: float, codec_ms: float) -> Measurements:
    widths = (1, 2, 4, 8, 16)
    codec = {width: StageTimes(0, 0, 0, codec_ms * width**0.5, 0) for width in widths}
    return Measurements(1e12, {"4 bits": dict.fromkeys(widths, product_s)}, 1e-5, codec)


@given(st.floats(1e-13, 1e-10), st.floats(0.5, 100), st.floats(1, 4), st.floats(0, 200e9), st.floats(0, 50e9))
def test_a_faster_or_larger_machine_never_holds_fewer_lanes(
    product_s: float, codec_ms: float, slower: float, free_bytes: float, more_bytes: float
) -> None:
    here = estimate("Moshi 7B", "4 bits", measured(product_s, codec_ms), int(free_bytes))
    slow = estimate("Moshi 7B", "4 bits", measured(product_s * slower, codec_ms * slower), int(free_bytes))
    large = estimate("Moshi 7B", "4 bits", measured(product_s, codec_ms), int(free_bytes + more_bytes))
    assert slow.lanes <= here.lanes <= large.lanes
    if here.lanes:
        assert here.frame_ms[here.lanes] <= USABLE_MS
        assert here.one_lane_bytes + (here.lanes - 1) * here.lane_bytes <= free_bytes


def test_the_layer_overhead_is_the_time_beyond_the_matrix_products() -> None:
    config = parse_lm_config(LM)
    work = step_cost(config)
    assert layer_s(0.010, config, 0.0) == pytest.approx(0.010 / work.layers)
    assert layer_s(0.010, config, 1.0) == 0.0  # never negative
