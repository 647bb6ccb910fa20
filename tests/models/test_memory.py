"""The memory a bundle needs is computed before loading, is what it takes, and is refused if not free."""

import dataclasses
from pathlib import Path

import mlx.core as mx
import pytest
from support.checkpoints import LM, write_folder
from support.personas import write_persona_folder

from pipeline import backend
from pipeline.config import read_config
from pipeline.errors import WeightsError
from pipeline.models.bundle import Bundle, open_bundle
from pipeline.models.checkpoint.formats import PERSONAPLEX
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.memory import (
    KEPT_PROMPTS,
    PROMPT_CACHE_BYTES,
    kept_prompts_bytes,
    memory_needs,
    require_memory,
)
from pipeline.models.quantization import quantize_checkpoint
from pipeline.stages.model_stages import open_stages
from pipeline.values import GREEDY, Prompt

# Enough that the weights and the rings are most of it, and headers and rounding are not.
LARGER = {**LM, "dim": 256, "depformer_dim": 128, "context": 300}


def bundle_of(folder: Path) -> Bundle:
    return open_bundle(read_config(folder))


def test_the_needs_are_what_loading_takes(tmp_path: Path) -> None:
    """Weights and the state of every lane, measured after loading, are within 15 % of the computed needs."""
    settings = {"lanes": {"max": 4}, "kernels": "off"}
    stages = open_stages(read_config(write_folder(tmp_path, lm=LARGER, settings=settings)))
    needs = stages.memory
    assert (needs.lanes, needs.prompts_bytes) == (4, 0)
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
    assert (needs.total_bytes, needs.prompts_bytes) == (parts, 0)
    assert str(needs).startswith(f"{parts / 2**30:.2f} GiB for 2 lanes")


def test_kept_prompts_count_for_a_model_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At their bound, which the stepper keeps, and the check refuses what does not have the room for them."""
    stages = open_stages(read_config(write_persona_folder(tmp_path, settings={"lanes": {"max": 2}})))
    needs = stages.memory
    ring_bytes = needs.rings_bytes - memory_needs(stages.bundle, 1).rings_bytes
    assert 0 < needs.prompts_bytes <= KEPT_PROMPTS * ring_bytes
    assert f"kept prompts {needs.prompts_bytes / 2**30:.2f} GiB" in str(needs)
    stage, role = stages.load_stepper(), 0
    while stage._prompts.size_bytes < needs.prompts_bytes // 2 or role < 2 * len(stage._prompts._snapshots):
        role += 1
        stage.open(0, GREEDY)
        stage.begin(0, Prompt(f"role {role}", None, (5, 6, 7, role % 40) * 6))
        stage.close(0)
        assert stage._prompts.size_bytes <= needs.prompts_bytes
    monkeypatch.setattr(backend, "free_bytes", lambda: needs.total_bytes - needs.prompts_bytes)
    with pytest.raises(WeightsError, match="kept prompts"):
        require_memory(needs, "model")


def test_the_7b_model_keeps_a_gibibyte_of_prompts() -> None:
    """However many lanes there are: the bound is the same in any dtype."""
    config = parse_lm_config(PERSONAPLEX).transformer
    for dtype_bytes in (2, 4):
        assert kept_prompts_bytes(config, dtype_bytes) == PROMPT_CACHE_BYTES == 2**30


def test_weights_take_the_memory_of_their_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense with MLX on the CPU whatever the file; where quantized weights are kept, a fraction."""
    bundle = bundle_of(write_folder(tmp_path, lm=LARGER, settings={"kernels": "off"}))
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
