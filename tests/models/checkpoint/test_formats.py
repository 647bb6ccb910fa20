"""Models are recognised by config and shapes; those that cannot run are refused in a sentence."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx
import msgspec
import pytest
from support.checkpoints import LM, write_folder
from support.models.golden_lm import DATA, config_of

from pipeline.cli.offline import run_frames
from pipeline.config import read_config
from pipeline.errors import ConfigError, UnsupportedModelError, WeightsError
from pipeline.models import random_init
from pipeline.models.bundle import open_bundle
from pipeline.models.checkpoint import formats
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.models.lm import LmModel
from pipeline.stages.model_stages import open_stages
from pipeline.values import GREEDY

CONFIGS = Path(__file__).parents[3] / "configs"
HIBIKI = json.loads((DATA / "families/hibiki_1b/config.json").read_text())
CONDITIONS = {key: HIBIKI[key] for key in ("conditioners", "fuser")}


def stub(path: Path, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Path:
    """A checkpoint of which only the header is written: the rest of the file is a hole."""
    header, end = {}, 0
    for name, shape in tensors:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def published(raw: dict) -> Iterable[tuple[str, tuple[int, ...]]]:
    return random_init.lm_tensors(parse_lm_config({**raw, "model_type": "moshi"}))


def test_the_built_in_architecture_is_the_published_config() -> None:
    """Repositories without a config.json are Moshi 7B of September 2024."""
    raw = json.loads((CONFIGS / "moshi_7b_202409.json").read_text())
    assert parse_lm_config(raw) == parse_lm_config(formats.MOSHI_V0_1)
    sizes = [math.prod(shape) for _, shape in published(dict(formats.PERSONAPLEX))]
    assert 2 * sum(sizes) == 16_742_817_792  # the published file, its header apart


def test_a_repository_without_an_architecture_is_known_by_its_shapes(tmp_path: Path) -> None:
    """Moshi 7B without a config.json, PersonaPlex with or without its two words; headers are enough."""
    for raw, known, name in (
        ({}, formats.MOSHI_V0_1, "moshi"),
        ({}, formats.PERSONAPLEX, "personaplex"),
        ({"model_type": "personaplex", "version": "7b-v1"}, formats.PERSONAPLEX, "personaplex"),
    ):
        path = stub(tmp_path / "model.safetensors", published(dict(known)))
        assert formats.lacks_architecture(raw)
        config = parse_lm_config(formats.built_in(raw, path))
        assert config == parse_lm_config(known)
        assert formats.family_of(config) == name
        LmModel(config).check_weights(path)


def test_a_repository_without_an_architecture_and_with_other_shapes_is_refused_by_key(tmp_path: Path) -> None:
    """Key, expected and found, of all keys that differ."""
    other = {**formats.MOSHI_V0_1, "dim": 2048, "num_layers": 16, "text_card": 48_000}
    path = stub(tmp_path / "model.safetensors", published(other))
    with pytest.raises(WeightsError, match=r"not Moshi 7B v0\.1") as caught:
        formats.built_in({}, path)
    for message in (
        "dim (expected 4096, found 2048)",
        "num_layers (expected 32, found 16)",
        "text_card (expected 32000, found 48000)",
    ):
        assert message in caught.value.problem
    assert "n_q" not in caught.value.problem
    path = stub(tmp_path / "mimi.safetensors", [("encoder.model.0.weight", (3,))])
    with pytest.raises(WeightsError, match=r"dim \(expected 4096, found none\)"):
        formats.built_in({}, path)


@pytest.mark.parametrize(
    ("file", "family"),
    [
        (DATA / "families/hibiki_1b", "hibiki"),
        (DATA / "families/hibiki_zero", "hibiki-zero"),
        (DATA / "families/personaplex", "personaplex"),
        (DATA / "lm_golden_moshi", "moshi"),
    ],
)
def test_families_are_recognised(file: Path, family: str) -> None:
    assert formats.family_of(config_of(file)) == family


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "stt"}, "speech recognition"),
        ({"dep_q": 0}, "speech recognition"),
        ({"stt_config": {"audio_delay_seconds": 0.5}}, "speech recognition"),
        ({"model_type": "tts"}, "text-to-speech"),
        ({"tts_config": {"audio_delay": 1.28}}, "text-to-speech"),
        ({"cross_attention": True}, "text-to-speech"),
        ({"conditioners": {"speaker_wavs": {"type": "tensor", "tensor": {"dim": 512}}}}, "text-to-speech"),
        ({"conditioners": ["speaker_wavs"], "dep_q": 0}, "speech recognition"),
        ({"model_type": "mimi"}, "the codec alone"),
        ({"architectures": ["MoshiForConditionalGeneration"]}, "transformers"),
    ],
)
def test_a_config_of_another_kind_of_model_is_refused_with_a_hint(
    change: dict, message: str, tmp_path: Path
) -> None:
    """Before any other file is read; the exit code is that of weights."""
    (tmp_path / "config.json").write_text(json.dumps({**LM, **change}))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        open_bundle(read_config(tmp_path))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF\x03\x00\x00\x00" + bytes(90), "GGUF.* take a checkpoint for PyTorch or MLX"),
        (b"PK\x03\x04" + bytes(90), "PyTorch archive, which could run any code"),
        (b"\x80\x02}q\x00X\x05" + bytes(90), "Python pickle"),
    ],
)
def test_files_of_other_programs_are_refused_by_their_first_bytes(
    content: bytes, message: str, tmp_path: Path
) -> None:
    """As a language model and as a codec, whatever the file's name."""
    write_folder(tmp_path)
    for name in ("model.safetensors", "mimi.safetensors"):
        original = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnsupportedModelError, match=message):
            open_bundle(read_config(tmp_path)).check()
        (tmp_path / name).write_bytes(original)


def test_a_header_of_a_pickles_first_byte_in_length_is_still_a_header(tmp_path: Path) -> None:
    """0x80 bytes of header begin a safetensors file as a pickle begins."""
    text = json.dumps({"transformer.layers.0": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    (tmp_path / "w.safetensors").write_bytes((128).to_bytes(8, "little") + text.ljust(128).encode())
    assert list(formats.read(tmp_path / "w.safetensors")) == ["transformer.layers.0"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("depformer.0.transformer.layers.0.norm1.alpha", "layout of candle"),
        ("depth_decoder.layers.0.mlp.fc1.weight", "layout of transformers; .*moshiko"),
        ("transformer.layers.0.self_attn.in_proj_weight_scb", "bitsandbytes"),
        ("extra_heads.0.weight", "speech recognition"),
        ("transformer.layers.0.norm_cross.weight", "text-to-speech"),
    ],
)
def test_layouts_of_other_programs_are_refused_by_their_names(
    name: str, message: str, tmp_path: Path
) -> None:
    path = stub(tmp_path / "w.safetensors", [("transformer.layers.0.norm1.alpha", (4,)), (name, (4,))])
    with pytest.raises(UnsupportedModelError, match=message):
        LmModel(parse_lm_config(LM)).check_weights(path)


def test_a_session_with_guidance_needs_only_the_coefficient(tmp_path: Path) -> None:
    """From a folder to sound, with the checkpoint's coefficient, or the user's, which takes precedence."""
    folder = write_folder(tmp_path, lm={**LM, **CONDITIONS, "lm_gen_config": {"cfg_coef": 3.0}})
    frames = 0.1 * mx.random.normal((9, 1920), key=mx.random.key(1)).__array__()
    tokens = {}
    for coefficient in (None, 1.0, 6.0):
        overrides = [] if coefficient is None else [f"sampling.cfg_coef={coefficient}"]
        stages = open_stages(read_config(folder, ["lanes.max=2", *overrides]))
        assert stages.bundle.cfg_coef == (coefficient or 3.0)
        tokens[coefficient] = run_frames(stages, frames, GREEDY).text_tokens
    assert tokens[None] != tokens[1.0] != tokens[6.0]


def test_guidance_of_a_model_without_conditions_is_refused(tmp_path: Path) -> None:
    """Wherever it is set; 1 is no guidance."""
    folder = write_folder(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_bundle(read_config(folder, ["sampling.cfg_coef=2"]))
    assert caught.value.key == "pipeline.sampling.cfg_coef"
    assert open_bundle(read_config(folder, ["sampling.cfg_coef=1"])).cfg_coef == 1
    write_folder(tmp_path, lm={**LM, "lm_gen_config": {"cfg_coef": 2}})
    with pytest.raises(ConfigError) as caught:
        open_bundle(read_config(folder))
    assert caught.value.key == "lm_gen_config.cfg_coef"


def test_a_greedy_recommendation_applies(tmp_path: Path) -> None:
    """`use_sampling: false` is temperature 0; other recommendations are taken over; unknown keys are not."""
    folder = write_folder(tmp_path, lm={**LM, "lm_gen_config": {"temp_text": 0.4, "top_k": 7}})
    config = read_config(folder)
    sampling = config.settings.sampling_for(open_bundle(config).recommended_sampling, 5)
    assert (sampling.text_temperature, sampling.top_k, sampling.temperature) == (0.4, 7, 0.8)
    write_folder(tmp_path, lm={**LM, "lm_gen_config": {"use_sampling": False, "temp": 0.4}})
    config = read_config(folder)
    sampling = config.settings.sampling_for(open_bundle(config).recommended_sampling, 5)
    assert (sampling.text_temperature, sampling.temperature) == (0, 0)
    write_folder(tmp_path, lm={**LM, "lm_gen_config": {"tempp": 1}})
    with pytest.raises(ConfigError, match="tempp"):
        open_bundle(read_config(folder))


def test_an_adapter_is_found_beside_its_config(tmp_path: Path) -> None:
    """And checked with the weights, before anything is loaded; its keys must make sense."""
    adapted = {**LM, "lora": True, "lora_rank": 2, "lora_name": "a.safetensors"}
    folder = write_folder(tmp_path, lm=adapted)
    pair = {"text_linear.lora_A.weight": mx.ones((2, 32)), "text_linear.lora_B.weight": mx.ones((40, 2))}
    mx.save_safetensors(str(tmp_path / "a.safetensors"), pair)
    bundle = open_bundle(read_config(folder))
    bundle.check()
    plain = LmModel(bundle.lm)
    plain.load_weights(bundle.lm_path)
    fused = bundle.load_lm()
    assert mx.allclose(fused.text_linear.weight, plain.text_linear.weight + 4, atol=0.05)
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"a\.safetensors: No such file"):
        bundle.check()
    for change, key in (
        ({"lora": False}, "lora"),
        ({"lora_name": None}, "lora_name"),
        ({"lora_rank": "2"}, "lora_rank"),
        ({"lora_rank": 0}, "lora_rank"),
    ):
        write_folder(tmp_path, lm={**adapted, **change})
        with pytest.raises(ConfigError) as caught:
            open_bundle(read_config(folder))
        assert caught.value.key == key


def test_weights_made_from_a_seed_are_whole_for_every_family(tmp_path: Path) -> None:
    """Also where a published file holds more than is needed."""
    raw = json.loads((DATA / "families/personaplex/config.json").read_text())
    config = parse_lm_config(raw)
    needed = msgspec.structs.replace(config, unused_slices=0)
    random_init.write_checkpoint(tmp_path / "w.safetensors", random_init.lm_tensors(config), 1)
    LmModel(needed).check_weights(tmp_path / "w.safetensors")
    config = config_of(DATA / "families/hibiki_2b")
    random_init.write_checkpoint(tmp_path / "w.safetensors", random_init.lm_tensors(config), 1)
    LmModel(config).check_weights(tmp_path / "w.safetensors")
