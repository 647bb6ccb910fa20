"""A Mimi checkpoint is loaded whole or not at all; whatever is wrong is named."""

import re

import mlx.core as mx
import numpy as np
import pytest
from golden_mimi import CHECKPOINT, CODEBOOKS, config, mimi
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from pipeline.errors import TensorMismatchError
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
    """With any one of its tensors in another shape a checkpoint is refused, and both shapes are said."""
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
    """A tensor the codec has no place for is refused by name."""
    with pytest.raises(TensorMismatchError) as raised:
        load({**TENSORS, name: np.zeros(3, np.float16)})
    assert name in str(raised.value)


def test_all_that_is_wrong_is_said_at_once(load):
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


def test_stored_precision_does_not_matter(load):
    """The same numbers stored as float32 are the same parameters."""
    assert_same_parameters(load({k: v.astype(np.float32) for k, v in TENSORS.items()}), mimi())


def test_checking_says_what_loading_would(tmp_path):
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
