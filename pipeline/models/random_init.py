"""Random weights for an architecture without a checkpoint: seeded, in the published layout.

The result is an ordinary checkpoint, read by the same loaders as any other. Every tensor is drawn
from a generator of its own (NumPy's PCG64, keyed by the seed and the tensor's name), so that
a file is the same on every machine and in every order of writing. Scales are chosen so that a
signal keeps its magnitude through the network and the tokens vary; the sound is quiet noise.
"""

import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.mimi_config import MimiConfig
from pipeline.models.checkpoint.safetensors_header import Shape, TensorHeader
from pipeline.models.checkpoint.writer import new_checkpoint
from pipeline.models.layers.conditioning import condition_tensors
from pipeline.models.layers.transformer import TransformerConfig, gating_width

StoredDtype = Literal["F32", "BF16"]

VERSION: Final = 1  # part of the cache key: raise it whenever other bytes come out

# (pattern, constant, scale): the first pattern that matches applies. Scale 0 fills the tensor with
# the constant; otherwise it scales a normal distribution, by 1/√fan_in where it is negative.
_DRAWS: Final[tuple[tuple[str, float, float], ...]] = (
    (r".*\.(cluster_usage|_initialized)", 1.0, 0.0),
    (r".*\.layer_scale_[12]\.scale", 0.3, 0.0),
    (r".*(norm[12]?|norms\.\d+)\.(weight|alpha)", 1.0, 0.0),
    (r".*norm[12]?\.bias", 0.0, 0.0),
    (r"decoder\.model\.\d+\.conv\.conv\.bias|.*\.bias", 0.0, 0.02),
    (r".*\.embedding_sum", 0.0, 0.5),
    (r".*emb(\.\d+)?\.weight", 0.0, 1.0),
    (r".*", 0.0, -1.0),
)
_LOUDNESS: Final = 0.02  # of the sound's last layer, so that noise does not hurt


def mimi_tensors(config: MimiConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a Mimi as Kyutai publishes it."""
    seanet, quantizer, width = config.seanet, config.quantizer, config.seanet.dimension

    def conv(name: str, out: int, into: int, kernel: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.conv.conv.weight", (out, into, kernel)
        yield f"{name}.conv.conv.bias", (out,)

    def residuals(side: str, index: int, channels: int) -> Iterator[tuple[str, Shape]]:
        hidden = channels // seanet.compress
        for block in range(index, index + seanet.n_residual_layers):
            yield from conv(f"{side}.{block}.block.1", hidden, channels, seanet.residual_kernel_size)
            yield from conv(f"{side}.{block}.block.3", channels, hidden, 1)

    # Between two convolutions of a stage are its residual blocks and one activation.
    stage = seanet.n_residual_layers + 2
    channels, index = seanet.n_filters, 1
    yield from conv("encoder.model.0", channels, 1, seanet.kernel_size)
    for ratio in reversed(seanet.ratios):
        yield from residuals("encoder.model", index, channels)
        yield from conv(f"encoder.model.{index + stage - 1}", 2 * channels, channels, 2 * ratio)
        channels, index = 2 * channels, index + stage
    yield from conv(f"encoder.model.{index + 1}", width, channels, seanet.last_kernel_size)

    yield from conv("decoder.model.0", channels, width, seanet.kernel_size)
    index = 2
    for ratio in seanet.ratios:
        channels //= 2
        yield f"decoder.model.{index}.convtr.convtr.weight", (2 * channels, channels, 2 * ratio)
        yield f"decoder.model.{index}.convtr.convtr.bias", (channels,)
        yield from residuals("decoder.model", index + 1, channels)
        index += stage
    yield from conv(f"decoder.model.{index}", 1, channels, seanet.last_kernel_size)

    for side in ("encoder", "decoder"):
        yield from _transformer_tensors(f"{side}_transformer.transformer", config.transformer)
    for rvq, levels in (("rvq_first", 1), ("rvq_rest", quantizer.n_q - 1)):
        yield f"quantizer.{rvq}.input_proj.weight", (quantizer.dimension, width, 1)
        yield f"quantizer.{rvq}.output_proj.weight", (width, quantizer.dimension, 1)
        for level in range(levels):
            book = f"quantizer.{rvq}.vq.layers.{level}._codebook"
            yield f"{book}._initialized", (1,)
            yield f"{book}.cluster_usage", (quantizer.bins,)
            yield f"{book}.embedding_sum", (quantizer.bins, quantizer.dimension)
    kernel = 2 * config.frame_positions
    yield "downsample.conv.conv.conv.weight", (width, width, kernel)
    yield "upsample.convtr.convtr.convtr.weight", (width, 1, kernel)


def lm_tensors(config: LmConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a Moshi language model as Kyutai publishes it for PyTorch."""

    def embedding(name: str, vocabulary: int, dim: int, low_rank: int | None) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.weight", (vocabulary + 1, low_rank or dim)
        if low_rank is not None:
            yield f"{name}.low_rank.weight", (dim, low_rank)

    depth, low_rank = config.depformer_dim, config.depformer_low_rank_embeddings
    for codebook in range(config.n_q):
        yield from embedding(f"emb.{codebook}", config.card, config.dim, None)
    yield from embedding("text_emb", config.text_card, config.dim, None)
    yield "text_linear.weight", (config.text_vocabulary, config.dim)
    yield from _transformer_tensors("transformer", config.transformer)
    yield from _norm_tensors("out_norm", config.norm, config.dim)

    sets = max(config.weight_sets) + 1
    for index in range(sets if config.depformer_multi_linear else 1):
        yield f"depformer_in.{index}.weight", (depth, config.dim)
    yield from embedding("depformer_text_emb", config.text_card, depth, low_rank)
    for codebook in range(config.dep_q - 1):
        yield from embedding(f"depformer_emb.{codebook}", config.card, depth, low_rank)
    widths = config.depformer_feedforward if config.depformer_weights_per_step else None
    yield from _transformer_tensors("depformer", config.depformer, widths)
    for codebook in range(config.dep_q):
        if config.depformer_norm is not None:
            yield from _norm_tensors(f"depformer_norms.{codebook}", config.depformer_norm, depth)
        yield f"linears.{codebook}.weight", (config.card, depth)
    yield from condition_tensors(config.conditioners, config.dim)


def _norm_tensors(name: str, norm: str, dim: int) -> Iterator[tuple[str, Shape]]:
    if norm.startswith("rms"):
        yield f"{name}.alpha", (1, 1, dim)
    else:
        yield f"{name}.weight", (dim,)
        yield f"{name}.bias", (dim,)


def _transformer_tensors(
    prefix: str, config: TransformerConfig, per_step: tuple[int, ...] | None = None
) -> Iterator[tuple[str, Shape]]:
    """`per_step`: the feed-forward size of each weight set, where the weights differ per codebook."""
    dim = config.d_model
    packed = dim + 2 * config.num_kv_heads * config.head_dim
    for index in range(config.num_layers):
        layer = f"{prefix}.layers.{index}"
        for norm in ("norm1", "norm2"):
            yield from _norm_tensors(f"{layer}.{norm}", config.norm, dim)
        for step in range(len(per_step or (0,))):
            yield f"{layer}.self_attn.in_projs.{step}.weight", (packed, dim)
            yield f"{layer}.self_attn.out_projs.{step}.weight", (dim, dim)
        if config.gating == "none":
            yield f"{layer}.linear1.weight", (config.dim_feedforward, dim)
            yield f"{layer}.linear2.weight", (dim, config.dim_feedforward)
        else:
            gates = {f"gating.{step}": size for step, size in enumerate(per_step or ())}
            for gate, size in (gates or {"gating": config.dim_feedforward}).items():
                width = gating_width(dim, size)
                yield f"{layer}.{gate}.linear_in.weight", (2 * width, dim)
                yield f"{layer}.{gate}.linear_out.weight", (dim, width)
        if config.layer_scale is not None:
            yield f"{layer}.layer_scale_1.scale", (dim,)
            yield f"{layer}.layer_scale_2.scale", (dim,)


def _draw(name: str, shape: Shape, seed: int) -> npt.NDArray[np.float32]:
    constant, scale = next((c, s) for pattern, c, s in _DRAWS if re.fullmatch(pattern, name))
    if scale == 0:
        return np.full(shape, constant, np.float32)
    if scale < 0:
        # A transposed kernel is [in, out, K], and two of its positions meet in each output.
        fan_in = 2 * shape[0] if ".convtr." in name else math.prod(shape[1:])
        scale = (_LOUDNESS if shape[0] == 1 else 1.0) / math.sqrt(fan_in)
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    return generator.standard_normal(shape, np.float32) * np.float32(scale)


def _bytes_of(drawn: npt.NDArray[np.float32], dtype: StoredDtype) -> bytes:
    if dtype == "F32":
        return drawn.astype("<f4", copy=False).tobytes()
    words = drawn.view(np.uint32)
    half = np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))  # round to nearest, ties to even
    return ((words + half) >> np.uint32(16)).astype("<u2").tobytes()


def write_checkpoint(
    path: Path, tensors: Iterator[tuple[str, Shape]], seed: int, dtype: StoredDtype = "F32"
) -> None:
    """Write a safetensors file, with one tensor in memory at a time; on failure there is no file."""
    headers = {name: TensorHeader(dtype, shape) for name, shape in tensors}
    with new_checkpoint(path, headers, {"untrained": "true", "seed": str(seed)}) as file:
        for name, tensor in headers.items():
            file.put(name, _bytes_of(_draw(name, tensor.shape, seed), dtype))
