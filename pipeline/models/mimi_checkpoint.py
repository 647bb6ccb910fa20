"""Reads Mimi checkpoints in the layout Kyutai publishes, which is PyTorch's also for MLX.

How tensors become parameters is `RULES`; what the published layout has and the codec has
not (a codebook as sums and counts, kernels where a matrix will do) is worked out after
everything has been matched. Matching itself: `checkpoint`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import mlx.core as mx

from pipeline.models.checkpoint import Rule, Shape, load_parameters, match, read_header
from pipeline.models.mimi_config import MimiConfig
from pipeline.models.quantizer import half_squares

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
_LEAST_USAGE: Final = 1e-5  # what the official quantizer divides an unused centroid by


def check_mimi(path: Path, config: MimiConfig, network: dict[str, Shape]) -> None:
    """Compare a checkpoint with the codec by its header alone; raises what `load_mimi` would."""
    header = read_header(path)
    match(path, header, network | _quantizer_shapes(config), _rules(header))


def load_mimi(
    path: Path, config: MimiConfig, network: dict[str, Shape], num_codebooks: int, dtype: mx.Dtype
) -> dict[str, mx.array]:
    """The parameters of a `Mimi` by name, evaluated: `network`'s in `dtype`, the quantizer's in float32.

    Codebooks beyond the first `num_codebooks` must be there, as published, and are left out.

    Raises:
        WeightsError: there is no such file, or it is not a whole safetensors file.
        TensorMismatchError: names every tensor missing, left over or mis-shaped.
    """
    parameters = network | _quantizer_shapes(config)
    tensors = dict(load_parameters(path, parameters, _rules(read_header(path)), mx.float32))
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


def _rules(names: Iterable[str]) -> tuple[Rule, ...]:
    packed = any(name.endswith(".in_proj_weight") for name in names)
    return (*_COMMON, *(_PACKED if packed else ()), *_SPLIT)


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
            shapes[f"{book}._initialized"] = (1,)  # whether training has begun: there, and not used
    return shapes
