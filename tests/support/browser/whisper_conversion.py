"""A real Whisper for the pages, from the CTranslate2 model of a package.

The files are those of the public exports: graphs whose weights are 8-bit integers, whose activations are
quantized as they come (as `onnxruntime.quantization.quantize_dynamic` does it), and which put out the
cross-attentions. Source of the layout: CTranslate2, `specs/model_spec.py` and `specs/whisper_spec.py`.

`PYTHONPATH=.:tests python tests/support/browser/whisper_conversion.py MODEL FOLDER` writes the files of the
CTranslate2 model in the folder MODEL.
"""

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from support.browser.whisper_graph import (
    FRAMES,
    TOKENIZER_CONFIG,
    Graph,
    Sizes,
    config_of,
    features_of,
)

Array = npt.NDArray[np.float32]
Weights = Mapping[str, npt.NDArray[Any]]

VERSION, SPEC, REVISION = 6, "WhisperSpec", 3
DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2")  # by CTranslate2's number
MULTILINGUAL_FROM = 51865  # tokens; one less is English only


def read_weights(path: Path) -> Weights:
    """The variables of a CTranslate2 `model.bin`, by name."""
    data = path.read_bytes()
    at = 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    def text() -> str:
        (size,) = take("H")
        (content,) = take(f"{size}s")
        return bytes(content).rstrip(b"\0").decode()

    header = (take("I")[0], text(), take("I")[0])
    assert header == (VERSION, SPEC, REVISION), f"{path} is {header}"
    weights: dict[str, npt.NDArray[Any]] = {}
    for _ in range(take("I")[0]):
        name = text()
        shape = take(f"{take('B')[0]}I")
        kind, size = take("BI")
        weights[name] = np.frombuffer(data, DTYPES[kind], size // np.dtype(DTYPES[kind]).itemsize, at)
        weights[name] = weights[name].reshape(shape)
        at += size
    return weights


class Matrix(NamedTuple):
    """The names of its constants; `scales` of each column if it is quantized."""

    values: str
    scales: str | None


class TrainedGraph(Graph):
    """With the weights of a model, in 8 bits if `quantized`."""

    def __init__(self, sizes: Sizes, weights: Weights, *, quantized: bool) -> None:
        super().__init__(sizes)
        self._weights = weights
        self._quantized = quantized

    def weight(self, name: str) -> Array:
        return self._weights[name].astype(np.float32)

    def linear(self, values: str, name: str, rows: slice = slice(None)) -> str:
        """[…, D] → […, D'] by a layer, or by these of its outputs."""
        product = self.product(values, self.matrix(self.weight(f"{name}/weight")[rows]))
        return self("Add", product, self.constant(self.weight(f"{name}/bias")[rows]))

    def matrix(self, weight: Array) -> Matrix:
        """The constants of `weight` [V, D], turned to [D, V]."""
        if not self._quantized:
            return Matrix(self.constant(weight.T), None)
        scales = np.maximum(np.abs(weight).max(axis=1), 1e-9) / 127
        integers = np.round(weight / scales[:, None])
        return Matrix(self.constant(integers.T, np.int8), self.constant(scales))

    def product(self, values: str, matrix: Matrix) -> str:
        """[…, D] → […, V]."""
        if matrix.scales is None:
            return self("MatMul", values, matrix.values)
        given, scale, zero = self.outputs("DynamicQuantizeLinear", values, count=3)
        product = self("Cast", self("MatMulInteger", given, matrix.values, zero), to=1)
        return self("Mul", product, self("Mul", scale, matrix.scales))

    def embedded(self, ids: str, matrix: Matrix) -> str:
        """[B, T] → [B, T, D]."""
        rows = self("Transpose", self("Gather", matrix.values, ids, axis=1), perm=[1, 2, 0])
        if matrix.scales is None:
            return rows
        scales = self("Unsqueeze", self("Gather", matrix.scales, ids), self.ints(2))
        return self("Mul", self("Cast", rows, to=1), scales)

    def normed(self, values: str, name: str) -> str:
        gamma, beta = (self.constant(self.weight(f"{name}/{part}")) for part in ("gamma", "beta"))
        return self("LayerNormalization", values, gamma, beta, axis=-1, epsilon=1e-5)

    def gelu(self, values: str) -> str:
        steep = self("Erf", self("Div", values, self.constant(np.sqrt(2))))
        both = self("Mul", values, self("Add", steep, self.constant(1.0)))
        return self("Mul", both, self.constant(0.5))

    def convolved(self, values: str, name: str, stride: int) -> str:
        weight, bias = (self.constant(self.weight(f"{name}/{part}")) for part in ("weight", "bias"))
        return self.gelu(self("Conv", values, weight, bias, strides=[stride], pads=[1, 1]))

    def feed_forward(self, state: str, name: str) -> str:
        inner = self.gelu(self.linear(self.normed(state, f"{name}/layer_norm"), f"{name}/linear_0"))
        return self("Add", state, self.linear(inner, f"{name}/linear_1"))

    def parts(self, values: str, name: str, count: int) -> list[str]:
        """Query, key and value (or the last two) of a layer that computes them together, by heads."""
        width = self.sizes.width
        slices = [slice(n * width, (n + 1) * width) for n in range(count)]
        return [self.heads(self.linear(values, name, rows)) for rows in slices]


def _encoder(graph: TrainedGraph) -> bytes:
    sound = graph.convolved("input_features", "encoder/conv1", 1)
    sound = graph("Transpose", graph.convolved(sound, "encoder/conv2", 2), perm=[0, 2, 1])
    positions = graph.constant(graph.weight("encoder/position_encodings/encodings")[:FRAMES])
    state = graph("Add", sound, positions)
    for layer in range(graph.sizes.encoder_layers):
        name = f"encoder/layer_{layer}"
        attention = f"{name}/self_attention"
        normed = graph.normed(state, f"{attention}/layer_norm")
        query, key, value = graph.parts(normed, f"{attention}/linear_0", 3)
        mixed, _ = graph.attention(query, key, value, None)
        state = graph("Add", state, graph.linear(mixed, f"{attention}/linear_1"))
        state = graph.feed_forward(state, f"{name}/ffn")
    state = graph.normed(state, "encoder/layer_norm")
    graph("Identity", state, out="last_hidden_state")
    return graph.encoder_bytes()


def _decoder(graph: TrainedGraph) -> bytes:
    positions, causal = graph.positions()
    table = graph.matrix(graph.weight("decoder/embeddings/weight"))
    places = graph.constant(graph.weight("decoder/position_encodings/encodings"))
    state = graph("Add", graph.embedded("input_ids", table), graph("Gather", places, positions))
    for layer in range(graph.sizes.decoder_layers):
        name = f"decoder/layer_{layer}"
        own, cross = f"{name}/self_attention", f"{name}/attention"
        normed = graph.normed(state, f"{own}/layer_norm")
        query, *new = graph.parts(normed, f"{own}/linear_0", 3)
        key, value = _cached(graph, layer, "decoder", new)
        mixed, _ = graph.attention(query, key, value, causal)
        state = graph("Add", state, graph.linear(mixed, f"{own}/linear_1"))
        normed = graph.normed(state, f"{cross}/layer_norm")
        (query,) = graph.parts(normed, f"{cross}/linear_0", 1)
        new = graph.parts(graph.unseen_states(layer), f"{cross}/linear_1", 2)
        key, value = _cached(graph, layer, "encoder", new)
        mixed, weights = graph.attention(query, key, value, None)
        graph("Identity", weights, out=f"cross_attentions.{layer}")
        state = graph("Add", state, graph.linear(mixed, f"{cross}/linear_2"))
        state = graph.feed_forward(state, f"{name}/ffn")
    logits = graph.product(graph.normed(state, "decoder/layer_norm"), table)
    graph("Identity", logits, out="logits")
    return graph.decoder_bytes()


def _cached(graph: Graph, layer: int, side: str, new: list[str]) -> list[str]:
    parts = zip(("key", "value"), new, strict=True)
    return [graph.cached(layer, side, part, values) for part, values in parts]


def converted(model: Path, *, quantized: bool = True) -> dict[str, bytes]:
    """The repository, by path, of the CTranslate2 model in the folder `model`."""
    weights = read_weights(model / "model.bin")
    about = json.loads((model / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    width, mels, _ = weights["encoder/conv1/weight"].shape
    sizes = Sizes(
        mels=mels,
        width=width,
        heads=int(weights["decoder/num_heads"]),
        encoder_layers=_layers(weights, "encoder"),
        decoder_layers=_layers(weights, "decoder"),
        vocabulary=len(weights["decoder/embeddings/weight"]),
    )
    start, end = ids["<|startoftranscript|>"], ids["<|endoftext|>"]
    multilingual = sizes.vocabulary >= MULTILINGUAL_FROM
    generation: dict[str, object] = {
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": multilingual,
        "max_length": 448,
        "suppress_tokens": about["suppress_ids"],
        "begin_suppress_tokens": about["suppress_ids_begin"],
        "alignment_heads": about["alignment_heads"],
    }
    if multilingual:
        codes = {number: name for name, number in ids.items()}
        generation["lang_to_id"] = {codes[number]: number for number in about["lang_ids"]}
        generation["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    objects = {
        "config.json": config_of(sizes, start=start, end=end),
        "generation_config.json": generation,
        "preprocessor_config.json": features_of(sizes),
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }
    files = {name: json.dumps(content).encode() for name, content in objects.items()}
    files["tokenizer.json"] = (model / "tokenizer.json").read_bytes()
    suffix = "_quantized" if quantized else ""
    for name, built in (("encoder_model", _encoder), ("decoder_model_merged", _decoder)):
        graph = TrainedGraph(sizes, weights, quantized=quantized)
        files[f"onnx/{name}{suffix}.onnx"] = built(graph)
    return files


def _layers(weights: Weights, side: str) -> int:
    return sum(name.startswith(f"{side}/layer_") and name.endswith("/ffn/linear_0/bias") for name in weights)


if __name__ == "__main__":
    for path, content in converted(Path(sys.argv[1])).items():
        place = Path(sys.argv[2]) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
