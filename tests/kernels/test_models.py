"""Kernels compute what the MLX code computes that they stand in for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support.checkpoints import LM, write_folder
from support.models import golden_mimi
from support.models.golden_lm import DATA, agree
from support.models.transformers import forms_of

from pipeline.config import read_config
from pipeline.kernels.library import Library
from pipeline.models.bundle import open_bundle
from pipeline.models.layers.transformer import Transformer, TransformerConfig
from pipeline.models.lm import LmModel
from pipeline.models.memory import memory_needs
from pipeline.models.mimi import Mimi
from pipeline.models.native import DepformerKernel, TransformerKernel, attach_lm, attach_mimi
from pipeline.models.quantization import quantize_checkpoint
from pipeline.models.sampling import SamplingBatch
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.values import SamplingParams

ROPE = TransformerConfig(d_model=48, num_heads=4, num_layers=2, dim_feedforward=72, context=5)
VARIANTS = [*forms_of(ROPE), replace(ROPE, d_model=160, num_heads=2, context=40)]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("config", VARIANTS)
def test_a_transformer(library: Library, instruction_set: str, config: TransformerConfig, steps: int) -> None:
    """Every kind of layer, with lanes in any order, several times round the ring."""
    mx.random.seed(3)
    plain, native = Transformer(config), Transformer(config)
    mx.eval(plain.parameters())
    native.update(plain.parameters())
    native.kernel = TransformerKernel(library, native)
    one, other = plain.state(4), native.state(4)
    random = np.random.default_rng(1)
    for _ in range(3 * config.context):
        lanes = random.permutation(4)[: random.integers(1, 5)].astype(np.int32)
        x = mx.array(random.standard_normal((len(lanes), steps, config.d_model), np.float32))
        expected, one = plain(x, one, lanes)
        found, other = native(x, other, lanes)
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=2e-5)
    for a, b in zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True):
        np.testing.assert_allclose(np.array(b), np.array(a), atol=2e-5)


def test_rings_of_sixteen_bits(library: Library, instruction_set: str) -> None:
    """Keys and values are rounded to bfloat16 as in the MLX code, and computed with in float32."""
    mx.random.seed(3)
    config = replace(ROPE, d_model=160, num_heads=2, context=20)
    plain, native = Transformer(config), Transformer(config)
    native.update(plain.parameters())
    native.kernel = TransformerKernel(library, native)
    one, other = plain.state(2, mx.bfloat16), native.state(2, mx.bfloat16)
    assert other.keys[0].dtype == mx.bfloat16
    for _ in range(45):
        x = mx.random.normal((2, 1, config.d_model))
        expected, one = plain(x, one, np.arange(2, dtype=np.int32))
        found, other = native(x, other, np.arange(2, dtype=np.int32))
        # A number between two of bfloat16 may be rounded either way.
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=3e-2)


def test_pinned_positions_stay(library: Library) -> None:
    """A prompt that is kept for ever is attended to as in the MLX code."""
    mx.random.seed(3)
    plain, native = Transformer(ROPE), Transformer(ROPE)
    native.update(plain.parameters())
    native.kernel = TransformerKernel(library, native)
    one, other = plain.state(2), native.state(2)
    one.pinned[0] = other.pinned[0] = 2
    for step in range(14):
        x = mx.random.normal((2, 1, ROPE.d_model))
        expected, one = plain(x, one, np.arange(2, dtype=np.int32))
        found, other = native(x, other, np.arange(2, dtype=np.int32))
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=2e-5, err_msg=str(step))


def test_rings_are_written_in_place(library: Library) -> None:
    """A step allocates nothing of the size of a ring, unless somebody still holds the old state."""
    config = replace(ROPE, context=2000)
    model = Transformer(config)
    model.kernel = TransformerKernel(library, model)
    state, x, lanes = model.state(8), mx.random.normal((1, 1, config.d_model)), np.zeros(1, np.int32)
    mx.eval(state.keys, state.values, x)
    for _ in range(3):
        y, state = model(x, state, lanes)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(y, state.keys, state.values)
        assert mx.get_peak_memory() - before < state.keys[0].nbytes / 4
    kept, old = state, np.array(state.keys[0][0, :, :5])
    _, state = model(x, state, lanes)
    mx.eval(state.keys)
    np.testing.assert_array_equal(np.array(kept.keys[0][0, :, :5]), old)
    assert (np.array(state.keys[0][0, :, 3]) != old[:, 3]).any()


def test_wrong_places_raise(library: Library) -> None:
    """Rows, slots and shapes that the rings do not have are refused before anything is written."""
    model = Transformer(ROPE)
    native = TransformerKernel(library, model)._native
    state, x = model.state(2), mx.zeros((1, ROPE.d_model))
    good: dict[str, Any] = {
        "x": x, "keys": state.keys, "values": state.values,
        "lanes": [1], "starts": [0], "slots": [0], "steps": 1,
    }  # fmt: skip
    mx.eval(native.step(**good)[0])
    for bad in (
        {"lanes": [2]},
        {"lanes": [-1]},
        {"lanes": []},
        {"slots": [5]},
        {"slots": [-1]},
        {"slots": [0, 1]},
        {"starts": [-1]},
        {"starts": [0, 0]},
        {"steps": 0},
        {"steps": 6},
        {"x": mx.zeros((2, ROPE.d_model))},
        {"x": mx.zeros((1, 3))},
        {"x": x.astype(mx.bfloat16)},
        {"keys": state.keys[:1]},
        {"values": [mx.zeros((2, 4, 6, 12))] * 2},
        {"keys": [mx.zeros((1, 4, 5, 12))] * 2},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            native.step(**{**good, **bad})


@pytest.mark.parametrize("name", ["moshi", "variant"])
def test_the_official_tokens(library: Library, instruction_set: str, name: str) -> None:
    """Greedy tokens of the goldens are equal in every step, far beyond the ring's length."""
    folder = DATA / f"lm_golden_{name}"
    agree(folder, folder / "model.safetensors", kernels=library)


def test_the_official_codes_and_samples(library: Library, instruction_set: str) -> None:
    """Every code of the codec's golden is equal, every sample within 1e-4."""
    mimi = Mimi(golden_mimi.config(), golden_mimi.CODEBOOKS)
    mimi.load_weights(golden_mimi.CHECKPOINT)
    attach_mimi(mimi, library)
    user_pcm, codes, agent_pcm = golden_mimi.golden()
    encoder, decoder, lanes = mimi.encoder_state(3), mimi.decoder_state(3), np.array([1], np.int32)
    for frame, (user, expected, agent) in enumerate(zip(user_pcm, codes, agent_pcm, strict=True)):
        found, encoder = mimi.encode(mx.array(user[None]), encoder, lanes)
        np.testing.assert_array_equal(np.array(found)[0], expected, err_msg=f"frame {frame}")
        pcm, decoder = mimi.decode(mx.array(expected[None]), decoder, lanes)
        np.testing.assert_allclose(np.array(pcm)[0], agent, rtol=0, atol=1e-4, err_msg=f"frame {frame}")


def test_codec_lanes_are_independent(library: Library) -> None:
    """A lane gives the same bits alone and beside others; rows that are not named keep theirs."""
    mimi = Mimi(golden_mimi.config(), golden_mimi.CODEBOOKS)
    mimi.load_weights(golden_mimi.CHECKPOINT)
    attach_mimi(mimi, library)
    user_pcm, codes, _ = golden_mimi.golden()
    alone, together = mimi.decoder_state(4), mimi.decoder_state(4)
    for frame in range(6):
        one, alone = mimi.decode(mx.array(codes[frame][None]), alone, np.array([2], np.int32))
        others = np.stack([codes[frame + 3], codes[frame], codes[frame + 9]])
        both, together = mimi.decode(mx.array(others), together, np.array([0, 2, 1], np.int32))
        np.testing.assert_array_equal(np.array(both)[1], np.array(one)[0])
        assert not np.array(together.conv_state[3]).any()
    del user_pcm


def stored(folder: Path, dtype: mx.Dtype) -> Path:
    """The folder's language model with its numbers rounded to `dtype`."""
    path = folder / "model.safetensors"
    tensors = {name: each.astype(dtype) for name, each in mx.load(str(path)).items()}
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors)
    return path


def both(config: Any, path: Path, library: Library) -> tuple[LmModel, LmModel]:
    """The model in float32 with MLX, and as it is stored with kernels."""
    plain, native = LmModel(config), LmModel(config)
    plain.load_weights(path)
    native.load_weights(path, keep_stored=True)
    attach_lm(native, library)
    return plain, native


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_sixteen_bits_stay_and_change_nothing(library: Library, tmp_path: Path, dtype: mx.Dtype) -> None:
    """Matrices stay in 16 bits; widened or not, logits and greedy tokens agree."""
    write_folder(tmp_path)
    path = stored(tmp_path, dtype)
    config = open_bundle(read_config(tmp_path)).lm
    plain, native = both(config, path, library)
    assert native.text_linear.weight.dtype == native.emb[0].weight.dtype == dtype
    assert native.out_norm.alpha.dtype == mx.float32
    agree_over_steps(plain, native)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64), (6, 64)])
def test_packed_numbers_stay_and_agree(library: Library, tmp_path: Path, bits: int, group: int) -> None:
    """A quantized checkpoint computes with its packed words what the dense one computes, to 1e-4."""
    wide = {**LM, "dim": 128, "depformer_dim": 64, "depformer_dim_feedforward": 192, "hidden_scale": 4.0}
    write_folder(tmp_path, lm=wide)
    config = open_bundle(read_config(tmp_path)).lm
    path = quantize_checkpoint(
        tmp_path / "model.safetensors", tmp_path / "packed.safetensors", config, bits, group
    ).path
    plain, native = both(config, path, library)
    assert native.text_linear.weight.dtype == native.emb[0].weight.dtype == mx.uint32
    assert native.state(1).keys[0].dtype == mx.bfloat16
    native.ring_dtype = mx.float32  # in which tokens can be compared
    agree_over_steps(plain, native)


def agree_over_steps(plain: LmModel, native: LmModel) -> None:
    """Logits of a whole sequence agree, and so do the tokens of steps in lanes of a wider state."""
    c = plain.config
    random = np.random.default_rng(5)
    codes = random.integers(0, c.card, (2, 1 + c.n_q, 9), np.int32)
    expected, found = plain.logits(codes), native.logits(codes)
    for a, b in ((expected.text, found.text), (expected.audio, found.audio)):
        np.testing.assert_allclose(np.array(b), np.array(a), atol=1e-4)
    lanes = np.array([2, 0], np.int32)
    one, other = plain.state(3), native.state(3)
    for _ in range(4 * c.context):
        text = random.integers(0, c.text_card, (2, 1), np.int32)
        audio = random.integers(-1, c.card, (2, c.n_q, 1), np.int32)
        text_a, audio_a, one = plain.step(text, audio, one, lanes)
        text_b, audio_b, other = native.step(text, audio, other, lanes)
        np.testing.assert_array_equal(np.array(text_b), np.array(text_a))
        np.testing.assert_array_equal(np.array(audio_b), np.array(audio_a))


@pytest.mark.parametrize(
    "change",
    [
        {"depformer_multi_linear": False},
        {"depformer_weights_per_step": False},
        {"depformer_low_rank_embeddings": 8},
        {"kv_repeat": 2},
        {"depformer_pos_emb": "rope"},
        {"depformer_pos_emb": "sin"},
    ],
)
def test_every_kind_of_language_model(library: Library, tmp_path: Path, change: dict[str, Any]) -> None:
    """What a kernel does not know is left to MLX; the tokens are the same."""
    write_folder(tmp_path, lm={**LM, **change})
    config = open_bundle(read_config(tmp_path)).lm
    agree_over_steps(*both(config, tmp_path / "model.safetensors", library))


def test_the_memory_check_counts_what_is_kept(library: Library, tmp_path: Path) -> None:
    """With kernels a bfloat16 model needs half of what it needs without."""
    write_folder(tmp_path)
    stored(tmp_path, mx.bfloat16)
    needs = {
        kernels: memory_needs(open_bundle(read_config(tmp_path, [f"kernels={kernels}"])), 1).lm_bytes
        for kernels in ("auto", "off")
    }
    assert 0.5 <= needs["auto"] / needs["off"] < 0.53


def test_kernels_are_a_setting(library: Library, tmp_path: Path) -> None:
    """`kernels = off` loads what it always loaded."""
    write_folder(tmp_path)
    on = open_stages(read_config(tmp_path)).bundle
    off = open_stages(read_config(tmp_path, ["kernels=off"])).bundle
    assert on.kernels is library
    assert off.kernels is None
    assert off.load_lm().transformer.kernel is None
    assert on.load_lm().transformer.kernel is not None
    assert json.loads((tmp_path / "config.json").read_text())["pipeline"] == {}


def sampled(stages: ModelStages, seeds: list[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Text `[steps, lanes]` and codes `[steps, lanes, dep_q]` of lanes that draw by different parameters."""
    stepper = stages.load_stepper()
    lanes = list(range(len(seeds)))
    limits = [0, 3, 1000, 7]  # none; so few that the greatest are kept; more than there are; half of them
    for lane, seed in zip(lanes, seeds, strict=True):
        stepper.open(
            lane,
            SamplingParams(
                seed=seed,
                temperature=0.4 * lane,
                top_k=limits[lane],
                text_temperature=0.5 * (3 - lane),
                text_top_k=limits[3 - lane],
                padding_bias=[0, 1.5, -2, 0][lane],
                repetition_penalty=[1, 1.3, 1, 2][lane],
            ),
        )
    random = np.random.default_rng(2)
    texts, frames = [], []
    for _ in range(steps):
        codes = random.integers(0, LM["card"], (len(lanes), 4), np.int32)
        results = stepper.step(lanes, codes)
        texts.append([result.token for result in results])
        frames.append([result.codes for result in results if result.codes is not None])
    return np.array(texts), np.array([frame for frame in frames if frame])


def test_tokens_are_drawn_as_by_mlx(library: Library, instruction_set: str, tmp_path: Path) -> None:
    """Greedy, with limits, biases and penalties and without, with the same random numbers."""
    write_folder(tmp_path)
    on, off = (
        sampled(open_stages(read_config(tmp_path, [f"kernels={k}", "lanes.max=4"])), [1, 2, 3, 4], 40)
        for k in ("auto", "off")
    )
    for found, expected in zip(on, off, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found)) > LM["card"] / 2


def sampling_kernel(library: Library, folder: Path) -> tuple[LmModel, DepformerKernel]:
    """A small model, and the kernel that samples its tokens."""
    write_folder(folder)
    model = open_bundle(read_config(folder)).load_lm()
    kernel = model.depformer.kernel
    assert isinstance(kernel, DepformerKernel)
    return model, kernel


def test_sampling_without_numbers_gives_tokens(library: Library, tmp_path: Path) -> None:
    """A row that is not finite gets tokens of the vocabulary, and the rows beside it get theirs."""
    model, kernel = sampling_kernel(library, tmp_path)
    c = model.config
    batch = SamplingBatch.of([SamplingParams(seed=1), SamplingParams(seed=2)], [3, 3], [(), ()], c.dep_q)
    x = mx.random.normal((2, c.dim))
    text, codes = kernel.sample(x, batch, c.dep_q, 1)
    for wrong in (np.nan, np.inf):
        found_text, found = kernel.sample(mx.stack([mx.full(c.dim, wrong), x[1]]), batch, c.dep_q, 1)
        assert 0 <= int(found_text[0]) < c.text_vocabulary
        assert (np.array(found[0]) < c.card).all()
        assert int(found_text[1]) == int(text[1])
        np.testing.assert_array_equal(np.array(found[1]), np.array(codes[1]))


def test_wrong_sampling_raises(library: Library, tmp_path: Path) -> None:
    """Settings that do not fit the rows, tokens and codebooks of a model are refused."""
    model, kernel = sampling_kernel(library, tmp_path)
    c = model.config
    good: dict[str, Any] = {
        "x": mx.zeros((2, c.dim)), "codebooks": 1, "text_temperatures": [0.0, 1.0], "text_top_k": [0, 0],
        "padding_bias": [0.0, 0.0], "penalties": [1.0, 2.0], "repeated": [[], [3]],
        "temperatures": [0.0, 0.0], "top_k": [0, 0], "uniforms": [0.5] * 4, "cfg_coef": 1.0,
    }  # fmt: skip
    mx.eval(kernel._native.sample(**good))
    for bad in (
        {"x": mx.zeros((3, c.dim))},
        {"x": mx.zeros((2, c.dim + 1))},
        {"x": mx.zeros((2, c.dim), mx.bfloat16)},
        {"codebooks": c.dep_q + 1},
        {"codebooks": -1},
        {"text_temperatures": [0.0]},
        {"text_top_k": [0]},
        {"padding_bias": [0.0]},
        {"penalties": []},
        {"repeated": [[]]},
        {"repeated": [[], [c.text_vocabulary]]},
        {"repeated": [[-1], []]},
        {"temperatures": [0.0] * 3},
        {"top_k": [0] * 3},
        {"uniforms": []},
        {"uniforms": [0.5] * 3},
        {"cfg_coef": 2.0},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            kernel._native.sample(**{**good, **bad})


@pytest.mark.parametrize("family", ["hibiki_1b", "hibiki_2b", "hibiki_zero", "personaplex"])
def test_every_family_gives_the_official_tokens(library: Library, family: str) -> None:
    """Of every published family, as of the models without kernels."""
    folder = DATA / "families" / family
    agree(folder, folder / "model.safetensors", kernels=library)


def test_guidance_gives_the_official_tokens(library: Library) -> None:
    """With classifier-free guidance both rows of a session draw one code."""
    folder = DATA / "families" / "hibiki_2b"
    agree(folder, folder / "model.safetensors", "guided.npz", 3.0, kernels=library)
