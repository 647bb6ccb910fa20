"""Whisper's encoder and decoder as ONNX graphs with the inputs and outputs of the public exports.

The decoder is one graph for both the first step and the later ones: its caches are empty at first. What
it makes of the encoder's states is cached, too, and not computed again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FRAMES = 1500
TARGETS = 448
NEVER = -1e4

Inputs = dict[str, tuple[int, list[int | str]]]


@dataclass(frozen=True)
class Sizes:
    """Of a model; `width` is that of all heads together."""

    mels: int
    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int

    @property
    def head(self) -> int:
        return self.width // self.heads


class Graph:
    """Builds an ONNX graph from nested calls."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: npt.ArrayLike, kind: npt.DTypeLike = np.float32) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def __call__(self, kind: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        name = out or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def outputs(self, kind: str, *inputs: str, count: int, **attributes: object) -> list[str]:
        """The outputs of a node that has several."""
        names = [f"n{len(self._nodes)}.{n}" for n in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def length(self, name: str, axis: int) -> str:
        return self("Gather", self("Shape", name), self.constant(axis, np.int64), axis=0)

    def heads(self, values: str) -> str:
        """[B, T, D] → [B, H, T, D/H]."""
        split = self("Reshape", values, self.ints(0, -1, self.sizes.heads, self.sizes.head))
        return self("Transpose", split, perm=[0, 2, 1, 3])

    def attention(self, query: str, key: str, value: str, bias: str | None) -> tuple[str, str]:
        """Its outcome [B, T, D] and its weights [B, H, T, S]; all three are [B, H, …, D/H]."""
        turned = self("Transpose", key, perm=[0, 1, 3, 2])
        scores = self("Div", self("MatMul", query, turned), self.constant(np.sqrt(self.sizes.head)))
        weights = self("Softmax", scores if bias is None else self("Add", scores, bias), axis=-1)
        mixed = self("Transpose", self("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self("Reshape", mixed, self.ints(0, -1, self.sizes.width)), weights

    def positions(self) -> tuple[str, str]:
        """Of the new tokens: their numbers [T], and the bias that hides later tokens from them [T, S]."""
        past = self.length("past_key_values.0.decoder.key", 2)
        total = self("Add", past, self.length("input_ids", 1))
        one = self.constant(1, np.int64)
        positions = self("Range", past, total, one)
        keys = self("Range", self.constant(0, np.int64), total, one)
        later = self("Greater", keys, self("Unsqueeze", positions, self.ints(1)))
        return positions, self("Where", later, self.constant(NEVER), self.constant(0.0))

    def unseen_states(self, layer: int) -> str:
        """The encoder's states of which the caches of this layer hold nothing yet: all, or none."""
        past = self("Unsqueeze", self.length(f"past_key_values.{layer}.encoder.key", 2), self.ints(0))
        return self("Slice", "encoder_hidden_states", past, self.ints(FRAMES), self.ints(1))

    def cached(self, layer: int, side: str, part: str, new: str) -> str:
        """What the cache holds and what is new, [B, H, S, D/H]; it goes out as the new cache."""
        name = f"{layer}.{side}.{part}"
        return self("Concat", f"past_key_values.{name}", new, axis=2, out=f"present.{name}")

    def encoder_bytes(self) -> bytes:
        """The encoder, whose output is `last_hidden_state`."""
        shape: list[int | str] = ["batch_size", self.sizes.mels, 2 * FRAMES]
        return self._bytes({"input_features": (TensorProto.FLOAT, shape)}, {"last_hidden_state": 3})

    def decoder_bytes(self) -> bytes:
        """The decoder, whose outputs are `logits`, the caches and the weights of its cross-attentions."""
        caches: Inputs = {}
        layers = range(self.sizes.decoder_layers)
        for layer in layers:
            for side, length in (
                ("decoder", "past_decoder_sequence_length"),
                ("encoder", "encoder_length_out"),
            ):
                for part in ("key", "value"):
                    shape: list[int | str] = ["batch_size", self.sizes.heads, length, self.sizes.head]
                    caches[f"past_key_values.{layer}.{side}.{part}"] = (TensorProto.FLOAT, shape)
        states: list[int | str] = ["batch_size", "encoder_sequence_length", self.sizes.width]
        inputs: Inputs = {
            "input_ids": (TensorProto.INT64, ["batch_size", "decoder_sequence_length"]),
            "encoder_hidden_states": (TensorProto.FLOAT, states),
            **caches,
        }
        made = {name.replace("past_key_values", "present"): 4 for name in caches}
        made |= {f"cross_attentions.{layer}": 4 for layer in layers}
        return self._bytes(inputs, {"logits": 3, **made})

    def _bytes(self, inputs: Inputs, outputs: Mapping[str, int]) -> bytes:
        """The model file; `outputs` are named with their ranks."""
        given = [helper.make_tensor_value_info(name, *info) for name, info in inputs.items()]
        made = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}.{axis}" for axis in range(rank)])
            for name, rank in outputs.items()
        ]
        graph = helper.make_graph(self._nodes, "whisper", given, made, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def config_of(sizes: Sizes, *, start: int, end: int) -> dict[str, object]:
    """`config.json`."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": True,
        "d_model": sizes.width,
        "encoder_layers": sizes.encoder_layers,
        "decoder_layers": sizes.decoder_layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "num_mel_bins": sizes.mels,
        "vocab_size": sizes.vocabulary,
        "max_source_positions": FRAMES,
        "max_target_positions": TARGETS,
        "median_filter_width": 7,
        "decoder_start_token_id": start,
        "eos_token_id": end,
    }


def features_of(sizes: Sizes) -> dict[str, object]:
    """`preprocessor_config.json`."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": sizes.mels,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 2 * FRAMES,
        "padding_value": 0.0,
        "padding_side": "right",
    }


TOKENIZER_CONFIG: dict[str, object] = {
    "tokenizer_class": "WhisperTokenizer",
    "eos_token": "<|endoftext|>",
    "model_max_length": 1024,
}
