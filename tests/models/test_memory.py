"""The memory a bundle needs is computed before loading, is what it takes, and is refused if not free."""

import dataclasses
from pathlib import Path

import mlx.core as mx
import pytest
from support.checkpoints import LM, write_folder

from pipeline import backend
from pipeline.config import read_config
from pipeline.errors import WeightsError
from pipeline.models.bundle import Bundle, open_bundle
from pipeline.models.memory import memory_needs, require_memory
from pipeline.models.quantization import quantize_checkpoint
from pipeline.stages.model_stages import open_stages

# Enough that the weights and the rings are most of it, and headers and rounding are not.
LARGER = {**LM, "dim": 256, "depformer_dim": 128, "context": 300}


def bundle_of(folder: Path) -> Bundle:
    return open_bundle(read_config(folder))


def test_the_needs_are_what_loading_takes(tmp_path: Path) -> None:
    """Weights and the state of every lane, measured after loading, are within 15 % of the computed needs."""
    stages = open_stages(read_config(write_folder(tmp_path, lm=LARGER, settings={"lanes": {"max": 4}})))
    needs = stages.memory
    assert needs.lanes == 4
    before_bytes = mx.get_active_memory()
    loaded = [stages.load_encoder(), stages.load_stepper(), stages.load_decoder()]
    taken_bytes = mx.get_active_memory() - before_bytes
    assert len(loaded) == 3
    assert taken_bytes == pytest.approx(needs.lm_bytes + needs.mimi_bytes + needs.rings_bytes, rel=0.15)


def test_a_lane_takes_rings_and_nothing_else(checkpoint: Path) -> None:
    """Each lane adds the same; weights are shared."""
    one, two, three = (memory_needs(bundle_of(checkpoint), lanes) for lanes in (1, 2, 3))
    assert three.rings_bytes - two.rings_bytes == two.rings_bytes - one.rings_bytes > 0
    assert (one.lm_bytes, one.mimi_bytes, one.working_bytes) == (
        three.lm_bytes,
        three.mimi_bytes,
        three.working_bytes,
    )


def test_the_parts_are_the_total(checkpoint: Path) -> None:
    """The sentence for the user has the total."""
    needs = memory_needs(bundle_of(checkpoint), 2)
    parts = needs.lm_bytes + needs.mimi_bytes + needs.rings_bytes + needs.working_bytes
    assert needs.total_bytes == parts
    assert str(needs).startswith(f"{parts / 2**30:.2f} GiB for 2 lanes")


def test_weights_take_the_memory_of_their_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense on the CPU whatever the file; where quantized weights are kept, a fraction."""
    bundle = bundle_of(write_folder(tmp_path, lm=LARGER))
    packed = tmp_path / "model.q4.safetensors"
    quantize_checkpoint(bundle.lm_path, packed, bundle.lm, 4)
    quantized = dataclasses.replace(bundle, lm_path=packed)
    assert memory_needs(quantized, 1).lm_bytes == memory_needs(bundle, 1).lm_bytes
    machine = dataclasses.replace(backend.prepare(), device="metal")
    monkeypatch.setattr(backend, "prepare", lambda: machine)
    dense_bytes, packed_bytes = memory_needs(bundle, 1).lm_bytes, memory_needs(quantized, 1).lm_bytes
    assert packed_bytes == pytest.approx(packed.stat().st_size, rel=0.15)
    assert packed_bytes < 0.4 * dense_bytes


def test_what_cannot_fit_is_refused_with_the_figures(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a weight is read: needed, free, and what needs it."""
    monkeypatch.setattr(backend, "free_bytes", lambda: 2**20)
    with pytest.raises(
        WeightsError, match=r"needs 0\.\d+ GiB for .+ lanes: .+; 0\.00 GiB are free"
    ) as caught:
        open_stages(read_config(checkpoint))
    assert caught.value.exit_code == 3
    assert caught.value.path.endswith("model.safetensors")


def test_what_fits_exactly_is_not_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte less is."""
    needs = memory_needs(bundle_of(checkpoint), 1)
    monkeypatch.setattr(backend, "free_bytes", lambda: needs.total_bytes)
    require_memory(needs, "model")
    monkeypatch.setattr(backend, "free_bytes", lambda: needs.total_bytes - 1)
    with pytest.raises(WeightsError):
        require_memory(needs, "model")


def test_this_machine_has_memory() -> None:
    """The figure is the machine's own."""
    assert backend.free_bytes() > 2**26
