"""A Mimi checkpoint is loaded whole or not at all; whatever is wrong is named."""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file
from support.models.golden_mimi import CHECKPOINT, CODEBOOKS, config, mimi

from pipeline.errors import TensorMismatchError
from pipeline.models.checkpoint.mimi_key_map import _join_heads, detect_mimi_layout
from pipeline.models.layers.attention import RotaryEmbedding
from pipeline.models.mimi import Mimi

TENSORS = load_file(CHECKPOINT)


def parameter_name(tensor):
    """What the codec calls the parameter that a published tensor becomes."""
    name = re.sub(r"(\.conv|\.convtr)+(?=\.(weight|bias)$)", "", tensor)
    return name.replace("_transformer.transformer.", "_transformer.")


@pytest.fixture
def load(tmp_path):
    """Load these tensors into a new Mimi."""

    def load(tensors):
        path = tmp_path / "mimi.safetensors"
        save_file(tensors, path)
        model = Mimi(config(), CODEBOOKS)
        model.load_weights(path)
        return model

    return load


def assert_same_parameters(one, two):
    expected = dict(tree_flatten(two.parameters()))
    for name, parameter in tree_flatten(one.parameters()):
        assert mx.array_equal(parameter, expected.pop(name)), name
    assert not expected


def test_every_dropped_tensor_is_named(load):
    """Without any one of its tensors a checkpoint is refused, and that one is named."""
    for name in TENSORS:
        with pytest.raises(TensorMismatchError) as raised:
            load({k: v for k, v in TENSORS.items() if k != name})
        assert raised.value.missing == (parameter_name(name),)
        assert not raised.value.extra
        assert not raised.value.misshaped


def test_every_reshaped_tensor_is_named(load):
    """With any one of its tensors in another shape a checkpoint is refused, and both shapes are named."""
    for name, tensor in TENSORS.items():
        wrong = np.repeat(tensor, 2, axis=0)
        with pytest.raises(TensorMismatchError) as raised:
            load({**TENSORS, name: wrong})
        assert raised.value.misshaped == ((name, tensor.shape, wrong.shape),)


@pytest.mark.parametrize(
    "name",
    [
        "surprise",
        "encoder.model.2.conv.conv.weight",
        "decoder.model.2.conv.conv.bias",
        "encoder_transformer.transformer.layers.2.norm1.weight",
        "quantizer.rvq_rest.vq.layers.5._codebook.embedding_sum",
        "quantizer.rvq_rest.vq.layers.0._codebook._embedding",
        "upsample.convtr.convtr.convtr.bias",
    ],
)
def test_every_added_tensor_is_named(load, name):
    """A tensor without a parameter is refused by name."""
    with pytest.raises(TensorMismatchError) as raised:
        load({**TENSORS, name: np.zeros(3, np.float16)})
    assert name in str(raised.value)


def test_all_mismatches_are_in_one_error(load):
    """One error names what is missing, what is left over and what is mis-shaped."""
    gone = ["downsample.conv.conv.conv.weight", "quantizer.rvq_first.input_proj.weight"]
    tensors = {k: v for k, v in TENSORS.items() if k not in gone}
    tensors["extra.one"] = np.zeros(1, np.float16)
    tensors["encoder.model.0.conv.conv.bias"] = np.zeros(7, np.float16)
    with pytest.raises(TensorMismatchError) as raised:
        load(tensors)
    assert set(raised.value.missing) == {parameter_name(name) for name in gone}
    assert raised.value.extra == ("extra.one",)
    assert raised.value.misshaped == (("encoder.model.0.conv.conv.bias", (2,), (7,)),)


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    """A partial load never happens."""
    model = Mimi(config(), CODEBOOKS)
    model.load_weights(CHECKPOINT)
    wrong = {name: np.ones_like(tensor) for name, tensor in TENSORS.items()}
    wrong.pop("encoder.model.0.conv.conv.bias")
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(TensorMismatchError):
        model.load_weights(tmp_path / "wrong.safetensors")
    assert_same_parameters(model, mimi())


def test_packed_projections_are_the_same_weights(load):
    """The older names of the attention's projections give the same parameters as the newer ones."""
    packed = {
        name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0", "out_proj"): tensor
        for name, tensor in TENSORS.items()
    }
    assert packed.keys() != TENSORS.keys()
    assert_same_parameters(load(packed), mimi())


def as_transformers(tensors, num_heads):
    """The codec in the layout of `kyutai/mimi`: other names, heads separate, each head's pairs as halves."""

    def halves(weight):
        pairs = weight.reshape(num_heads, -1, 2, weight.shape[1])
        return pairs.swapaxes(1, 2).reshape(weight.shape)

    renamed = {}
    for name, tensor in tensors.items():
        new = re.sub(r"(\.conv(tr)?)+\.(weight|bias)$", r".conv.\3", name)
        for old, other in (
            ("coder.model.", "coder.layers."),
            ("_transformer.transformer.", "_transformer."),
            ("out_projs.0", "o_proj"),
            ("linear1", "mlp.fc1"),
            ("linear2", "mlp.fc2"),
            ("norm1", "input_layernorm"),
            ("norm2", "post_attention_layernorm"),
            ("layer_scale_1", "self_attn_layer_scale"),
            ("layer_scale_2", "mlp_layer_scale"),
            (".vq.", "."),
            ("rvq_first", "semantic_residual_vector_quantizer"),
            ("rvq_rest", "acoustic_residual_vector_quantizer"),
            ("_codebook._initialized", "codebook.initialized"),
            ("_codebook.embedding_sum", "codebook.embed_sum"),
            ("_codebook", "codebook"),
        ):
            new = new.replace(old, other)
        if "in_projs" in new:
            queries, keys, values = np.split(tensor, 3)
            for part, weight in (("q", halves(queries)), ("k", halves(keys)), ("v", values)):
                renamed[new.replace("in_projs.0", f"{part}_proj")] = np.ascontiguousarray(weight)
        else:
            renamed[new] = tensor
    return renamed


def test_the_layout_of_transformers_is_the_same_weights(load):
    """Names, heads and rotation are another library's; the parameters are the same, bit for bit."""
    theirs = as_transformers(TENSORS, config().transformer.num_heads)
    assert detect_mimi_layout(theirs) == "transformers"
    for name in (  # as `modeling_mimi.py` has them
        "encoder.layers.1.block.1.conv.weight",
        "decoder.layers.2.conv.bias",
        "downsample.conv.weight",
        "upsample.conv.weight",
        "encoder_transformer.layers.0.self_attn.q_proj.weight",
        "decoder_transformer.layers.0.mlp_layer_scale.scale",
        "quantizer.semantic_residual_vector_quantizer.layers.0.codebook.embed_sum",
        "quantizer.acoustic_residual_vector_quantizer.input_proj.weight",
    ):
        assert name in theirs
    assert_same_parameters(load(theirs), mimi())


def test_heads_rotated_in_halves_are_heads_rotated_in_pairs():
    """Why the rows of queries and keys are reordered: only then do both rotations agree."""
    heads, width = 2, 8
    generator = np.random.default_rng(3)
    weights = {f"a.{part}_proj.weight": mx.array(generator.normal(size=(16, 5))) for part in "qkv"}
    x = mx.array(generator.normal(size=(1, 6, 5)))
    scores = {}
    for interleaved in (False, True):
        rotation = RotaryEmbedding.at(np.arange(6)[None], width, 10_000.0, interleaved=interleaved)
        if interleaved:
            _join_heads(weights, heads)
            q, k, _ = mx.split(weights["a.in_projs.0.weight"], 3)
        else:
            q, k = weights["a.q_proj.weight"], weights["a.k_proj.weight"]
        queries, keys = (
            np.array(rotation((x @ w.T).reshape(1, 6, heads, width).swapaxes(1, 2))) for w in (q, k)
        )
        scores[interleaved] = np.einsum("bhqd,bhkd->bhqk", queries, keys)
    np.testing.assert_allclose(scores[False], scores[True], atol=1e-4)


def test_every_tensor_of_the_other_layout_is_accounted_for_too(load):
    """Dropped, reshaped or added: named as the file names it, or as what is missing."""
    theirs = as_transformers(TENSORS, config().transformer.num_heads)
    for name, tensor in theirs.items():
        with pytest.raises(TensorMismatchError) as raised:
            load({k: v for k, v in theirs.items() if k != name})
        assert len(raised.value.missing) == 1
        assert not raised.value.extra
        with pytest.raises(TensorMismatchError) as raised:
            load({**theirs, name: np.repeat(tensor, 2, axis=0)})
        assert [wrong for wrong, _, _ in raised.value.misshaped] == [name]
    with pytest.raises(TensorMismatchError, match=r"codebook\.embed"):
        load({**theirs, "quantizer.acoustic_residual_vector_quantizer.layers.0.codebook.embed": np.zeros(3)})


def test_stored_precision_does_not_matter(load):
    """The same numbers stored as float32 are the same parameters."""
    assert_same_parameters(load({k: v.astype(np.float32) for k, v in TENSORS.items()}), mimi())


def test_checking_raises_what_loading_would(tmp_path):
    """A check reads the header only, passes what can be loaded, and raises the same error otherwise."""
    model = Mimi(config(), CODEBOOKS)
    model.check_weights(CHECKPOINT)
    path = tmp_path / "mimi.safetensors"
    save_file({k: v for k, v in TENSORS.items() if "upsample" not in k}, path)
    with pytest.raises(TensorMismatchError) as loaded:
        model.load_weights(path)
    with pytest.raises(TensorMismatchError) as checked:
        model.check_weights(path)
    assert str(checked.value) == str(loaded.value)
    assert checked.value.missing == ("upsample.weight",)


@pytest.mark.parametrize("count", [0, 1, CODEBOOKS + 1])
def test_codebooks_the_checkpoint_has_not_are_refused(count):
    """A split quantizer has two codebooks at least, and no more than were trained."""
    with pytest.raises(ValueError, match="codebooks"):
        Mimi(config(), count)
