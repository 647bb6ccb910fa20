"""The profiler accounts for every stage and leaves the models unchanged."""

from pathlib import Path

import mlx.core as mx
import pytest

from pipeline import backend
from pipeline.diagnostics.profiler import KINDS, Stopwatch, measure_profile
from pipeline.kernels.library import Library
from pipeline.models.checkpoint.resolve import open_config
from pipeline.models.layers.linear import Linear
from pipeline.stages.model_stages import open_stages

TINY = Path(__file__).parents[2] / "configs/tiny"


@pytest.mark.parametrize("width", [1, 3])
def test_every_stage_is_accounted_for(width: int) -> None:
    """Time is attributed by kind of layer: convolutions in the codec only, matrix products everywhere."""
    stages = open_stages(open_config(TINY, ["kernels=off"], check=open_stages))
    profile = measure_profile(stages, frames=2, width=width)
    assert list(profile) == ["encode", "step", "decode"]
    for stage, seen in profile.items():
        assert 0 < seen["python_ms"] < seen["whole_ms"]
        assert seen["operations"] >= sum(seen["most_frequent"].values()) > 100
        assert {"products", "norms", "attention"} <= set(seen["apart_ms"])
        assert ("convolutions" in seen["apart_ms"]) == (stage != "step")
        assert ("embeddings" in seen["apart_ms"]) == (stage == "step")
        assert all(ms > 0 for ms in seen["apart_ms"].values())


@pytest.mark.skipif(not isinstance(backend.kernels(), Library), reason="there are no native kernels")
def test_native_kernels_are_accounted_for() -> None:
    """They take a tenth of the operations, and the time of each is attributed."""
    on, off = (
        measure_profile(
            open_stages(open_config(TINY, [f"kernels={k}"], check=open_stages)), frames=2, width=1
        )
        for k in ("auto", "off")
    )
    for stage, seen in on.items():
        assert 0 < seen["operations"] < off[stage]["operations"] / 4
        assert "transformer" in seen["apart_ms"]
        assert ("convolutions" in seen["apart_ms"]) == (stage != "step")
    assert {"depformer", "embeddings"} <= set(on["step"]["apart_ms"])


def test_the_stopwatch_restores_every_layer() -> None:
    """Also after an exception; while it runs, a layer computes the same result."""
    before = {layer: dict(vars(layer)) for layer in KINDS}
    layer, x = Linear(4, 3), mx.ones((2, 4))
    expected = layer(x)
    watch = Stopwatch()
    with watch.running():
        assert mx.array_equal(layer(x), expected).item()
    with pytest.raises(ValueError, match="dimension"), watch.running():
        layer(mx.ones((2, 5)))
    assert list(watch.seconds) == ["products"]
    assert before == {layer: dict(vars(layer)) for layer in KINDS}
