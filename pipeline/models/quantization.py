"""Quantizes a checkpoint, into MLX's names and packing.

The source may be in any published layout; the result is in that of the MLX repositories, as
`mlx.nn.quantize` would make it from bfloat16 weights. One tensor is in memory at a time.
Quantized weights and computing with them: `layers.quantized`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mlx.core as mx
import msgspec
import numpy as np

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.checkpoint.formats import read
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.lm_key_map import detect_layout, lm_rules
from pipeline.models.checkpoint.loading import stream_parameters
from pipeline.models.checkpoint.safetensors_header import Shape, TensorHeader
from pipeline.models.checkpoint.writer import Writer, new_checkpoint
from pipeline.models.layers.conditioning import PREFIX
from pipeline.models.layers.quantized import GROUPS, Quantization
from pipeline.models.lm import LmModel

# The group sizes of the MLX repositories, by bits.
PUBLISHED_GROUPS: Final[Mapping[int, int]] = {4: 32, 6: 64, 8: 64}
# With 4 bits throughout, PersonaPlex is reported to speak garbled: the temporal transformer, which holds most
# of the weights, tolerates 4 bits; what turns codes into its input and its output into codes does not.
DELICATE_FAMILIES: Final = frozenset({"personaplex"})
DELICATE_BITS: Final = 8
_TOLERANT: Final = "transformer."
_STORED_AS: Final = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


@dataclass(frozen=True, slots=True)
class QuantizedCheckpoint:
    """The result. `kept`: matrices that are not quantized, because a row is not a whole number of groups."""

    path: Path
    how: Quantization
    quantized: int
    kept: tuple[str, ...]
    size_bytes: int


def quantize_checkpoint(
    source: Path,
    target: Path,
    config: LmConfig,
    bits: int,
    group: int | None = None,
    *,
    uniform: bool = False,
) -> QuantizedCheckpoint:
    """Write the language model in `source` to `target` with its matrices quantized to `bits` bits.

    In a model of `DELICATE_FAMILIES` depth transformer, heads and embeddings get `DELICATE_BITS` at least,
    unless `uniform`.

    Raises:
        ConfigError: MLX has no such quantization.
        WeightsError: the source does not match `config`, or is quantized already; or the target
            cannot be written, and then there is no file.
    """
    if bits not in PUBLISHED_GROUPS:
        raise ConfigError("bits", f"{bits} is not one of {', '.join(map(str, PUBLISHED_GROUPS))}")
    how = Quantization(bits, PUBLISHED_GROUPS[bits] if group is None else group)
    if how.group not in GROUPS:
        raise ConfigError("group", f"{how.group} is not one of {', '.join(map(str, GROUPS))}")
    delicate = how
    if config.model_type in DELICATE_FAMILIES and not uniform and bits < DELICATE_BITS:
        delicate = Quantization(DELICATE_BITS, PUBLISHED_GROUPS[DELICATE_BITS] if group is None else group)
    # Unused codebooks stay in the checkpoint, because its config lists them.
    whole = msgspec.structs.replace(config, dep_q=config.dep_q + config.unused_slices, unused_slices=0)
    model = LmModel(whole)
    shapes = model.parameter_shapes()
    assignments = model.check_weights(source)
    already = [a.source for a in assignments if a.quantization is not None]
    if already:
        raise WeightsError(str(source), f"is quantized already: {already[0]} and {len(already) - 1} others")
    header = read(source)
    stored = {name: header[a.source].dtype for a in assignments for name in a.targets}
    planned = {name: how if name.startswith(_TOLERANT) else delicate for name in shapes}
    chosen = {
        name: planned[name]
        for name, shape in shapes.items()
        if planned[name].divides(shape) and not name.startswith(PREFIX)
    }
    kept = tuple(name for name, shape in shapes.items() if len(shape) == 2 and name not in chosen)
    tensors: dict[str, TensorHeader] = {}
    for name, shape in shapes.items():
        for mlx_name in mlx_names(whole, name):
            entry = TensorHeader(stored[name], shape)
            tensors |= _entries(mlx_name, chosen[name], shape) if name in chosen else {mlx_name: entry}
    try:
        with new_checkpoint(target, tensors, {"format": "mlx"}) as file:
            rules = lm_rules(whole, detect_layout(header))
            for name, weight in stream_parameters(source, shapes, rules, mx.float32):
                assert isinstance(weight, mx.array)
                names = mlx_names(whole, name)
                if name in chosen:
                    _put_quantized(file, names, weight, chosen[name])
                else:
                    _put(file, names, weight.astype(_STORED_AS[stored[name]]))
    except OSError as error:
        raise WeightsError(str(target), f"cannot be written ({error.strerror})") from None
    return QuantizedCheckpoint(target, how, len(chosen), kept, target.stat().st_size)


def mlx_names(config: LmConfig, parameter: str) -> list[str]:
    """The names of a parameter in the MLX layout: one, or one for each codebook that shares it."""
    if re.match(r"depformer|linears\.", parameter):
        return list(_slice_names(config, parameter))
    name = re.sub(r"^emb\.", "audio_embs.", parameter)
    if re.match(r"transformer\.|out_norm\.", name):
        name = _unnumbered(name)
    return [name]


def _unnumbered(name: str) -> str:
    """`name` without the number of a weight set, and with `weight` for the weight of a norm."""
    name = re.sub(r"\.(in|out)_projs\.\d+\.", r".\1_proj.", name)
    return re.sub(r"\.gating\.\d+\.", ".gating.", name).replace(".alpha", ".weight")


def _slice_names(config: LmConfig, parameter: str) -> Iterator[str]:
    for codebook, which in enumerate(config.weight_sets):
        embedding = "depformer_text_emb" if codebook == 0 else f"depformer_emb.{codebook - 1}"
        projection = which if config.depformer_multi_linear else 0
        one = f"depformer.slices.{codebook}."
        for ours, theirs in (
            (f"depformer_in.{projection}.", "linear_in."),
            (f"linears.{codebook}.", "linear_out."),
            (f"{embedding}.", "emb."),
            (f"depformer_norms.{codebook}.", "norm."),
        ):
            if parameter.startswith(ours):
                yield one + theirs + parameter.removeprefix(ours).replace("alpha", "weight")
        if parameter.startswith("depformer.layers."):
            numbered = re.search(r"\.(?:gating|in_projs|out_projs)\.(\d+)\.", parameter)
            if numbered is None or int(numbered[1]) == which:
                yield one + "transformer." + _unnumbered(parameter.removeprefix("depformer."))


def _companions(name: str) -> tuple[str, str, str]:
    stem = name.removesuffix(".weight")
    return name, f"{stem}.scales", f"{stem}.biases"


def _entries(name: str, how: Quantization, shape: Shape) -> dict[str, TensorHeader]:
    words, scales, biases = _companions(name)
    entry = TensorHeader("BF16", how.scales_shape(shape))
    return {words: TensorHeader("U32", how.packed_shape(shape)), scales: entry, biases: entry}


def _put_quantized(file: Writer, names: list[str], weight: mx.array, how: Quantization) -> None:
    parts = mx.quantize(weight.astype(mx.bfloat16), group_size=how.group, bits=how.bits)
    for part, part_names in zip(parts, zip(*map(_companions, names), strict=True), strict=True):
        _put(file, part_names, part)


def _put(file: Writer, names: Iterable[str], tensor: mx.array) -> None:
    data = np.array(tensor.view(mx.uint16) if tensor.dtype == mx.bfloat16 else tensor)
    for name in names:
        file.put(name, data.tobytes())
