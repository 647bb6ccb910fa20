"""Every published family gives the tokens of the official implementation, in every layout it is published in.

The goldens are made by `tests/goldens/family_goldens.py`.
"""

import json
from pathlib import Path

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from support.models.golden_lm import DATA, agree, config_of, speak
from support.models.lm_layouts import Weights, as_mlx, as_split

from pipeline.errors import TensorMismatchError, WeightsError
from pipeline.models.checkpoint import formats
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.lora import Lora
from pipeline.models.lm import LmModel

FOLDER = DATA / "families"
FAMILIES = ("hibiki_1b", "hibiki_2b", "hibiki_zero", "personaplex")
GUIDANCE = 3.0  # of hibiki_2b's second trace


def published(folder: Path) -> LmConfig:
    """What the file holds, whether it is needed or not."""
    raw = json.loads((folder / "config.json").read_text())
    return parse_lm_config(raw | {"model_type": "moshi"})


def shards(weights: Weights, folder: Path) -> Path:
    """The weights in three files and the index that says where each is."""
    where = {name: f"model-{1 + n % 3:05}-of-00003.safetensors" for n, name in enumerate(weights)}
    for file in set(where.values()):
        part = {name: weight for name, weight in weights.items() if where[name] == file}
        mx.save_safetensors(str(folder / file), part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def in_layout(folder: Path, layout: str, to: Path) -> Path:
    packed = mx.load(str(folder / "model.safetensors"))
    assert isinstance(packed, dict)
    if layout == "sharded":
        return shards(packed, to)
    weights = {"packed": lambda p, _: p, "split": as_split, "mlx": as_mlx}[layout](packed, published(folder))
    path = to / f"{layout}.safetensors"
    mx.save_safetensors(str(path), weights)
    return path


@pytest.mark.parametrize("layout", ["packed", "split", "mlx", "sharded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_determine_the_config(family: str, layout: str, tmp_path: Path) -> None:
    """Eight of its keys, in every layout."""
    raw = json.loads((FOLDER / family / "config.json").read_text())
    keys = formats.keys_by_shape(formats.read(in_layout(FOLDER / family, layout, tmp_path)))
    assert len(keys) == 8
    assert keys == {key: raw[key] for key in keys}


def test_shapes_determine_the_config_of_quantized_weights(tmp_path: Path) -> None:
    """Quantization packs columns, and the keys depend on rows."""
    folder = DATA / "lm_golden_moshi"
    weights = mx.load(str(in_layout(folder, "mlx", tmp_path)))
    assert isinstance(weights, dict)
    packed: Weights = {}
    for name, weight in weights.items():
        packed[name] = weight
        if weight.ndim == 2 and weight.shape[1] % 32 == 0:
            stem = name.removesuffix("weight")
            packed[name], packed[stem + "scales"], packed[stem + "biases"] = mx.quantize(weight, 32, 4)
    mx.save_safetensors(str(tmp_path / "q4.safetensors"), packed)
    raw = json.loads((folder / "config.json").read_text())
    keys = formats.keys_by_shape(formats.read(tmp_path / "q4.safetensors"))
    assert keys == {key: raw[key] for key in keys}
    assert len(keys) == 8


@pytest.mark.parametrize("layout", ["packed", "split", "mlx", "sharded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_official_tokens(family: str, layout: str, tmp_path: Path) -> None:
    """Greedy tokens are equal in every step, far past the wrap of the rings."""
    agree(FOLDER / family, in_layout(FOLDER / family, layout, tmp_path))


def test_guidance_gives_the_official_tokens() -> None:
    """With cfg_coef 3, text and every codebook are moved away from the null conditions."""
    agree(FOLDER / "hibiki_2b", FOLDER / "hibiki_2b/model.safetensors", "guided.npz", GUIDANCE)


def changed(config: LmConfig, **changes: object) -> tuple[np.ndarray, ...]:
    """The tokens of hibiki_2b's weights with a change in the config."""
    model = LmModel(msgspec.structs.replace(config, **changes))
    model.load_weights(FOLDER / "hibiki_2b/model.safetensors")
    return speak(model, np.load(FOLDER / "hibiki_2b/trace.npz")["user"])


@pytest.mark.parametrize("change", [{"summed": ()}, {"model_type": "moshi"}])
def test_the_goldens_detect_a_wrong_config(change: dict[str, object]) -> None:
    """Without its conditions, or with the end of its text as input, Hibiki gives other tokens."""
    golden = np.load(FOLDER / "hibiki_2b/trace.npz")
    text, _, _ = changed(config_of(FOLDER / "hibiki_2b"), **change)
    assert (text != golden["text"]).any()


def test_unused_codebooks_are_not_loaded_but_must_be_complete(tmp_path: Path) -> None:
    """PersonaPlex's second half of the depformer is no parameter; a file without a part of it is damaged."""
    folder = FOLDER / "personaplex"
    config = config_of(folder)
    assert (config.dep_q, config.unused_slices, config.mimi_codebooks) == (4, 4, 4)
    model = LmModel(config)
    names = model.parameter_shapes()
    assert "linears.3.weight" in names
    assert not [name for name in names if name.startswith(("linears.4", "depformer_in.4", "depformer_emb.3"))]
    assert "depformer.layers.0.self_attn.in_projs.4.weight" not in names
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    for lost in ("linears.7.weight", "depformer_in.4.weight", "depformer_emb.6.weight"):
        kept = {name: weight for name, weight in weights.items() if name != lost}
        mx.save_safetensors(str(tmp_path / "lost.safetensors"), kept)
        with pytest.raises(WeightsError, match=r"\.".join(lost.split(".")[:2])):
            model.check_weights(tmp_path / "lost.safetensors")
    name = "depformer.layers.0.self_attn.in_proj_weight"
    mx.save_safetensors(str(tmp_path / "cut.safetensors"), weights | {name: mx.split(weights[name], 2)[0]})
    with pytest.raises(TensorMismatchError, match=f"{name} .expected .384, 16., found .192, 16."):
        model.check_weights(tmp_path / "cut.safetensors")


class Guided:
    """Sessions of one model with guidance, each feeding back its own tokens."""

    def __init__(self, model: LmModel, rows: int) -> None:
        self.model = model
        self.state = model.state(rows)
        self.tokens: dict[int, list[np.ndarray]] = {}

    def step(self, lane_of: dict[int, int]) -> None:
        """One step of the sessions that are the keys, each beside a user of its own."""
        c = self.model.config
        tokens = np.zeros((len(lane_of), 1 + c.n_q), np.int32)
        for row, (session, lane) in enumerate(lane_of.items()):
            if session not in self.tokens:
                self.state = self.model.reset(self.state, lane)
            history = self.tokens.setdefault(session, [])
            user = np.random.default_rng([session, len(history)]).integers(0, c.card, c.n_q - c.dep_q)
            agent = history[-1] if history else np.array([c.text_card] + [c.card] * c.dep_q)
            tokens[row] = np.concatenate([agent, user])
        lanes = np.array(list(lane_of.values()), np.int32)
        text, audio, self.state = self.model.step(tokens[:, :1], tokens[:, 1:, None], self.state, lanes)
        drawn = np.concatenate([np.array(text)[:, None], np.array(audio)], axis=1)
        for row, session in enumerate(lane_of):
            self.tokens[session].append(drawn[row])


@pytest.fixture(scope="module")
def guided() -> LmModel:
    model = LmModel(config_of(FOLDER / "hibiki_2b"), GUIDANCE)
    model.load_weights(FOLDER / "hibiki_2b/model.safetensors")
    return model


def test_a_guided_session_is_the_same_alone_and_beside_others(guided: LmModel) -> None:
    """In any lane, new or reused, past the wrap: rows with the null conditions are isolated, too."""
    together = Guided(guided, 4)
    for _ in range(13):
        together.step({8: 2, 9: 0})  # sessions that were there before
    for step in range(25):
        together.step({0: 2, 1: 0} if step % 3 else {0: 2, 1: 0, 2: 1})
    for session, lane, steps in ((0, 0, 25), (1, 1, 25), (2, 2, 9)):
        alone = Guided(guided, 4)
        for _ in range(steps):
            alone.step({session: lane})
        np.testing.assert_array_equal(alone.tokens[session], together.tokens[session])


def test_lanes_not_named_keep_both_rows_bit_for_bit(guided: LmModel) -> None:
    """A step or a reset of one lane changes that lane's two rows and no others."""
    sessions = Guided(guided, 3)
    for _ in range(4):
        sessions.step({0: 0, 1: 1, 2: 2})
    before = [np.array(ring) for ring in (*sessions.state.keys, *sessions.state.values)]
    sessions.step({1: 1})
    for old, new in zip(before, (*sessions.state.keys, *sessions.state.values), strict=True):
        differ = [row for row in range(6) if (old[row] != np.array(new)[row]).any()]
        assert differ == [1, 4]
    np.testing.assert_array_equal(sessions.state.offsets, [4, 5, 4, 4, 5, 4])
    np.testing.assert_array_equal(guided.reset(sessions.state, 2).offsets, [4, 5, 0, 4, 5, 0])


def test_without_guidance_there_is_one_row(guided: LmModel) -> None:
    """A coefficient of 1 needs no second row; another one needs conditions."""
    plain = LmModel(guided.config)
    assert len(plain.state(3).offsets) == 3
    assert len(guided.state(3).offsets) == 6
    with pytest.raises(ValueError, match="needs a model with conditions"):
        LmModel(config_of(FOLDER / "personaplex"), 2.0)


LORA = FOLDER / "lora"
BASE = DATA / "lm_golden_moshi/model.safetensors"


def adapter(path: Path = LORA / "lora.safetensors") -> Lora:
    return Lora(path, rank=3, scaling=2.0)


def saved(weights: Weights, folder: Path) -> Path:
    mx.save_safetensors(str(folder / "lora.safetensors"), weights)
    return folder / "lora.safetensors"


def pairs() -> Weights:
    weights = mx.load(str(LORA / "lora.safetensors"))
    assert isinstance(weights, dict)
    return weights


def test_a_fused_adapter_gives_the_official_tokens() -> None:
    agree(LORA, BASE, lora=adapter())


def test_an_adapter_goes_with_weights_of_any_layout(tmp_path: Path) -> None:
    """Its names are PyTorch's, whatever the layout of the weights."""
    base = mx.load(str(BASE))
    assert isinstance(base, dict)
    mx.save_safetensors(str(tmp_path / "base.safetensors"), as_mlx(base, config_of(LORA)))
    agree(LORA, tmp_path / "base.safetensors", lora=adapter())


def test_a_packed_adapter_is_the_same(tmp_path: Path) -> None:
    """Older files hold the pairs of all weight sets one after another."""
    packed: dict[str, list[mx.array]] = {}
    for name, weight in sorted(pairs().items()):
        stem, _, rest = name.partition("_projs.")
        packed.setdefault(f"{stem}_proj.{rest.partition('.')[2]}" if rest else name, []).append(weight)
    weights = {name: mx.concatenate(parts) for name, parts in packed.items()}
    assert len(weights) < len(pairs())
    agree(LORA, BASE, lora=adapter(saved(weights, tmp_path)))


def test_layers_without_an_adapter_stay_as_they_were_and_whole_weights_are_replaced(tmp_path: Path) -> None:
    table = mx.random.normal((33, 48))
    only = {name: weight for name, weight in pairs().items() if name.startswith("linears.0.")}
    model, base = LmModel(config_of(LORA)), LmModel(config_of(LORA))
    base.load_weights(BASE)
    model.load_weights(BASE, lora=adapter(saved(only | {"emb.2.weight": table}, tmp_path)))
    np.testing.assert_array_equal(model.emb[2].weight, table)
    np.testing.assert_array_equal(model.linears[1].weight, base.linears[1].weight)
    up, down = only["linears.0.lora_B.weight"], only["linears.0.lora_A.weight"]
    expected = base.linears[0].weight + 2.0 * up.astype(mx.float32) @ down.astype(mx.float32)
    np.testing.assert_allclose(model.linears[0].weight, expected, atol=1e-6)


def test_a_wrong_adapter_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    """Half a pair, another rank, a layer that the model has not: named, from the header alone."""
    model = LmModel(config_of(LORA))
    before = np.array(model.linears[0].weight)
    lonely = {name: weight for name, weight in pairs().items() if name != "linears.0.lora_A.weight"}
    stray = pairs() | {"linears.9.lora_A.weight": mx.zeros((3, 24))}
    for weights, message in (
        (lonely, r"missing linears\.0\.lora_A"),
        (stray, r"unexpected linears\.9\.lora_A"),
    ):
        path = saved(weights, tmp_path)
        for act in (model.check_weights, lambda base, lora: model.load_weights(base, lora=lora)):
            with pytest.raises(TensorMismatchError, match=message):
                act(BASE, adapter(path))
    with pytest.raises(
        TensorMismatchError, match=r"text_linear\.lora_A\.weight \(expected \[8, 48\], found \[3"
    ):
        model.check_weights(BASE, Lora(LORA / "lora.safetensors", rank=8, scaling=2.0))
    np.testing.assert_array_equal(model.linears[0].weight, before)
