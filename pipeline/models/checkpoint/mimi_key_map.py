"""The layouts of Mimi checkpoints, Kyutai's and that of transformers, as rules for `loading`.

What a layout stores in another form than the codec (codebooks as sums and counts; queries, keys
and values separately) is converted after all tensors have been matched.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import mlx.core as mx

from pipeline.models.checkpoint.formats import read
from pipeline.models.checkpoint.loading import Rule, find_layout, load_parameters, match
from pipeline.models.checkpoint.mimi_config import MimiConfig
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.quantizer import half_squares

Layout = Literal["packed", "split", "transformers"]
_LAYOUTS: Final[Mapping[Layout, str]] = {
    "transformers": r"encoder\.layers\..+",
    "packed": r".+\.in_proj_weight",
}

# PyTorch's kernels are [out, in, K], its transposed ones [in, out, K].
_KERNEL: Final = (0, 2, 1)
_TRANSPOSED_KERNEL: Final = (2, 1, 0)
_COMMON: Final = (
    Rule(r"((?:en|de)coder\.model\..+)\.conv\.conv\.weight", r"\1.weight", axes=_KERNEL),
    Rule(r"((?:en|de)coder\.model\..+)\.conv\.conv\.bias", r"\1.bias"),
    Rule(r"(decoder\.model\..+)\.convtr\.convtr\.weight", r"\1.weight", axes=_TRANSPOSED_KERNEL),
    Rule(r"(decoder\.model\..+)\.convtr\.convtr\.bias", r"\1.bias"),
    Rule(r"downsample\.conv\.conv\.conv\.weight", r"downsample.weight", axes=_KERNEL),
    Rule(r"upsample\.convtr\.convtr\.convtr\.weight", r"upsample.weight", axes=_TRANSPOSED_KERNEL),
)
_PACKED: Final = (
    Rule(r"(..coder_transformer)\.transformer\.(.+)\.in_proj_weight", r"\1.\2.in_projs.0.weight"),
    Rule(r"(..coder_transformer)\.transformer\.(.+)\.out_proj\.weight", r"\1.\2.out_projs.0.weight"),
)
_SPLIT: Final = (Rule(r"(..coder_transformer)\.transformer\.(.+)", r"\1.\2"),)
# The names in transformers (`modeling_mimi.py`) of everything but the convolutions, and our names.
_TRANSFORMERS: Final = (
    Rule(r"downsample\.conv\.weight", r"downsample.weight", axes=_KERNEL),
    Rule(r"upsample\.conv\.weight", r"upsample.weight", axes=_TRANSPOSED_KERNEL),
    *(
        Rule(rf"(..coder_transformer\.layers\.\d+)\.{theirs}\.(.+)", rf"\1.{ours}.\2")
        for theirs, ours in (
            (r"self_attn\.o_proj", "self_attn.out_projs.0"),
            (r"mlp\.fc1", "linear1"),
            (r"mlp\.fc2", "linear2"),
            (r"input_layernorm", "norm1"),
            (r"post_attention_layernorm", "norm2"),
            (r"self_attn_layer_scale", "layer_scale_1"),
            (r"mlp_layer_scale", "layer_scale_2"),
        )
    ),
    *(
        Rule(rf"quantizer\.{theirs}_residual_vector_quantizer\.{pattern}", f"quantizer.{ours}.{target}")
        for theirs, ours in (("semantic", "rvq_first"), ("acoustic", "rvq_rest"))
        for pattern, target in (
            (r"(input_proj|output_proj)\.weight", r"\1.weight"),
            (r"(layers\.\d+)\.codebook\.embed_sum", r"vq.\1._codebook.embedding_sum"),
            (r"(layers\.\d+)\.codebook\.cluster_usage", r"vq.\1._codebook.cluster_usage"),
            (r"(layers\.\d+)\.codebook\.initialized", r"vq.\1._codebook._initialized"),
        )
    ),
)
_HEADS: Final = re.compile(r"(..coder_transformer\..+\.self_attn)\.in_projs\.0\.weight")
_LEAST_USAGE: Final = 1e-5  # the official quantizer's divisor for an unused centroid


def check_mimi(path: Path, config: MimiConfig, network: dict[str, Shape]) -> None:
    """Compare a checkpoint with the codec by its header alone; raises what `load_mimi` would."""
    header = read(path)
    layout = detect_mimi_layout(header)
    match(path, header, _stored(network, layout) | _quantizer_shapes(config), _rules(config, layout))


def load_mimi(
    path: Path, config: MimiConfig, network: dict[str, Shape], num_codebooks: int, dtype: mx.Dtype
) -> dict[str, mx.array]:
    """The parameters of a `Mimi` by name, evaluated: `network`'s in `dtype`, the quantizer's in float32.

    Codebooks after the first `num_codebooks` must be present, as published, and are skipped.

    Raises:
        WeightsError: there is no such file, or it is not a whole safetensors file.
        TensorMismatchError: names every tensor missing, left over or mis-shaped.
    """
    layout = detect_mimi_layout(read(path))
    parameters = _stored(network, layout) | _quantizer_shapes(config)
    tensors = dict(load_parameters(path, parameters, _rules(config, layout), mx.float32))
    if layout == "transformers":
        _join_heads(tensors, config.transformer.num_heads)
    weights = {name: tensors[name].astype(dtype) for name in network}
    for rvq, levels in (("rvq_first", 1), ("rvq_rest", num_codebooks - 1)):
        prefix = f"quantizer.{rvq}"
        for projection in ("input_proj", "output_proj"):
            weights[f"{prefix}.{projection}"] = tensors[f"{prefix}.{projection}.weight"].squeeze(-1)
        centroids = []
        for level in range(levels):
            book = f"{prefix}.vq.layers.{level}._codebook"
            usage = mx.maximum(tensors[f"{book}.cluster_usage"], _LEAST_USAGE)
            centroids.append(tensors[f"{book}.embedding_sum"] / usage[:, None])
        codebooks = mx.stack(centroids)  # [K, bins, d]
        weights[f"{prefix}.codebooks"] = codebooks
        weights[f"{prefix}.half_squares"] = half_squares(codebooks)
    mx.eval(weights)
    return weights


def detect_mimi_layout(names: Iterable[str]) -> Layout:
    """The layout, recognised by tensors that only it has."""
    return find_layout(names, _LAYOUTS, default="split")


def _rules(config: MimiConfig, layout: Layout) -> tuple[Rule, ...]:
    if layout == "transformers":
        return (*_convolution_rules(config), *_TRANSFORMERS)
    return (*_COMMON, *(_PACKED if layout == "packed" else ()), *_SPLIT)


def _convolution_rules(config: MimiConfig) -> list[Rule]:
    # Transposed convolutions are named like the others there; only their indices differ.
    stage = config.seanet.n_residual_layers + 2
    indices = "|".join(str(2 + stage * index) for index in range(len(config.seanet.ratios)))
    return [
        Rule(
            rf"decoder\.layers\.({indices})\.conv\.weight",
            r"decoder.model.\1.weight",
            axes=_TRANSPOSED_KERNEL,
        ),
        Rule(r"(..coder)\.layers\.(.+)\.conv\.weight", r"\1.model.\2.weight", axes=_KERNEL),
        Rule(r"(..coder)\.layers\.(.+)\.conv\.bias", r"\1.model.\2.bias"),
    ]


def _stored(network: dict[str, Shape], layout: Layout) -> dict[str, Shape]:
    """The parameters as `layout` stores them: transformers keeps queries, keys and values apart."""
    if layout != "transformers":
        return network
    stored = {}
    for name, shape in network.items():
        heads = _HEADS.fullmatch(name)
        if heads is None:
            stored[name] = shape
        else:
            stored |= {f"{heads[1]}.{part}_proj.weight": (shape[0] // 3, shape[1]) for part in "qkv"}
    return stored


def _join_heads(tensors: dict[str, mx.array], num_heads: int) -> None:
    """Pack queries, keys and values; interleave each head's pairs (transformers rotates halves)."""
    for name in [name for name in tensors if name.endswith(".q_proj.weight")]:
        attention = name.removesuffix(".q_proj.weight")
        parts = [tensors.pop(f"{attention}.{part}_proj.weight") for part in "qkv"]
        rotated = [
            part.reshape(num_heads, 2, -1, part.shape[1]).swapaxes(1, 2).reshape(part.shape)
            for part in parts[:2]
        ]
        tensors[f"{attention}.in_projs.0.weight"] = mx.concatenate([*rotated, parts[2]])


def _quantizer_shapes(config: MimiConfig) -> dict[str, Shape]:
    """The published tensors of a split quantizer: codebook 0, then the others."""
    width, q = config.seanet.dimension, config.quantizer
    shapes: dict[str, Shape] = {}
    for rvq, levels in (("rvq_first", 1), ("rvq_rest", q.n_q - 1)):
        shapes[f"quantizer.{rvq}.input_proj.weight"] = (q.dimension, width, 1)
        shapes[f"quantizer.{rvq}.output_proj.weight"] = (width, q.dimension, 1)
        for level in range(levels):
            book = f"quantizer.{rvq}.vq.layers.{level}._codebook"
            shapes[f"{book}.embedding_sum"] = (q.bins, q.dimension)
            shapes[f"{book}.cluster_usage"] = (q.bins,)
            shapes[f"{book}._initialized"] = (1,)  # whether training has begun; present, and not used
    return shapes
