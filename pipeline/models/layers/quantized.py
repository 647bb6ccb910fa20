"""Quantized weights in MLX's format, and layers that compute with them.

Along each row, `group` numbers share one scale and one bias, and each number takes `bits` bits,
packed into 32-bit words. Every tensor has its own bits and group, determined from shapes
(`quantization_of`), never from its name. On Metal and CUDA products use the packed words
(`install`), as do native kernels on a CPU (`models.native`). With MLX alone a CPU would be unusably
slow, so weights are made dense while they are loaded (`Quantized.dequantized`). Making quantized
checkpoints: `pipeline.models.quantization`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_unflatten

Shape = tuple[int, ...]

BITS: Final = (2, 3, 4, 5, 6, 8)  # what MLX has kernels for
GROUPS: Final = (32, 64, 128)
WORD_BITS: Final = 32
_SAMPLED_ROWS: Final = 256


class Quantization(NamedTuple):
    """Bits per number and numbers per group of one tensor."""

    bits: int
    group: int

    def size_bytes(self, shape: Shape, scale_bytes: int) -> int:
        """Memory of a tensor of dense `shape`, including scales and biases."""
        numbers = 1
        for axis in shape:
            numbers *= axis
        return numbers * self.bits // 8 + 2 * scale_bytes * (numbers // self.group)

    def packed_shape(self, shape: Shape) -> Shape:
        """The shape of the words of a tensor of dense `shape`."""
        return (*shape[:-1], shape[-1] * self.bits // WORD_BITS)

    def scales_shape(self, shape: Shape) -> Shape:
        """The shape of its scales, and of its biases."""
        return (*shape[:-1], shape[-1] // self.group)

    def divides(self, shape: Shape) -> bool:
        """Whether a tensor of dense `shape` is a matrix with a whole number of groups per row."""
        return len(shape) == 2 and shape[-1] % self.group == 0


def quantization_of(dense: Shape, packed: Shape, scales: Shape) -> Quantization | None:
    """The quantization that turns a tensor of shape `dense` into these shapes; None if there is none."""
    if len(dense) != 2 or len(packed) != 2 or len(scales) != 2 or not packed[-1] or not scales[-1]:
        return None
    how = Quantization(WORD_BITS * packed[-1] // dense[-1], dense[-1] // scales[-1])
    known = how.bits in BITS and how.group in GROUPS
    fits = known and how.packed_shape(dense) == packed and how.scales_shape(dense) == scales
    return how if fits and how.divides(dense) else None


@dataclass(frozen=True, slots=True)
class Quantized:
    """One matrix `[out, in]`: `words` uint32 `[out, in·bits/32]`, `scales, biases [out, in/group]`."""

    words: mx.array
    scales: mx.array
    biases: mx.array
    how: Quantization

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """The dense matrix, computed in float32 as in products with packed words."""
        bits, group = self.how
        scales, biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        return mx.dequantize(self.words, scales, biases, group_size=group, bits=bits).astype(dtype)

    def split(self, convert: Callable[[mx.array], Sequence[mx.array]]) -> "list[Quantized]":
        """The matrices that `convert` makes of this one by splitting its rows."""
        words, scales, biases = (convert(part) for part in (self.words, self.scales, self.biases))
        return [Quantized(w, s, b, self.how) for w, s, b in zip(words, scales, biases, strict=True)]

    def arrays(self) -> list[mx.array]:
        """Words, scales and biases."""
        return [self.words, self.scales, self.biases]

    def is_plausible(self) -> bool:
        """Whether scales and biases fit these bits, and were not taken from another file.

        A group with numbers on both sides of zero has a bias of half to all of its 2^bits − 1 steps,
        and most groups of most rows are such; the scales of 4 bits are 17 times those of 8. Rows
        are sampled, and the thresholds leave a wide margin.
        """
        stride = max(1, self.scales.shape[0] // _SAMPLED_ROWS)
        scales, biases = self.scales[::stride].astype(mx.float32), self.biases[::stride].astype(mx.float32)
        counts = (scales != 0) & (biases != 0)  # a group of zeros has no bias
        steps = np.abs(np.array(biases / scales))[np.array(counts)]
        most = 2**self.how.bits - 1
        return steps.size == 0 or bool(most / 4 <= np.median(steps) <= most * 2)


class QuantizedLinear(nn.Module):
    """`nn.Linear` with a quantized weight."""

    def __init__(self, weight: Quantized, bias: mx.array | None = None) -> None:
        super().__init__()
        keep(self, weight)
        if bias is not None:
            self.bias = bias
        self.kernel: Callable[[mx.array], mx.array] | None = None  # see `models.native`

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in]` → `[..., out]`."""
        if self.kernel is not None:
            return self.kernel(x)
        kept = (self.weight, self.scales, self.biases)
        # In two dimensions: MLX's CUDA kernels would read the weight once for every leading index.
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        y = mx.quantized_matmul(rows, *kept, transpose=True, group_size=self.group, bits=self.bits)
        y = y if x.ndim == 2 else y.reshape(*x.shape[:-1], -1)
        return y + self.bias if "bias" in self else y


def keep(module: nn.Module, weight: Quantized) -> None:
    """Give `module` the quantized `weight` in place of a dense one."""
    module.weight, module.scales, module.biases = weight.arrays()
    module.bits, module.group = weight.how


def rows(table: nn.Module, indices: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
    """Rows of the weight of `table`, dense or quantized: `indices [...]`, none negative → `[..., D]`.

    They are computed in `dtype`, by default in that of the weight, or of its scales.
    """
    if "scales" not in table:
        dense: mx.array = table.weight[indices]
        return dense if dtype is None else dense.astype(dtype)
    scales, biases = table.scales[indices], table.biases[indices]
    if dtype is not None:
        scales, biases = scales.astype(dtype), biases.astype(dtype)
    return mx.dequantize(table.weight[indices], scales, biases, group_size=table.group, bits=table.bits)


def install(model: nn.Module, weights: Iterable[tuple[str, mx.array | Quantized]]) -> None:
    """Replace parameters of `model` by name; a linear layer with a quantized weight is replaced, too.

    A quantized weight belongs to an `nn.Linear`, or to a table that reads it with `rows`; an
    `nn.Embedding`, which does not, gets a dense one.
    """
    dense = []
    for name, weight in weights:
        if not isinstance(weight, Quantized):
            dense.append((name, weight))
            continue
        path = name.split(".")[:-1]
        owner = _child(model, path)
        if isinstance(owner, nn.Linear | QuantizedLinear):
            linear = QuantizedLinear(weight, owner.bias if "bias" in owner else None)
            _put(_child(model, path[:-1]), path[-1], linear)
        elif isinstance(owner, nn.Embedding):
            dense.append((name, weight.dequantized(weight.scales.dtype)))
        else:
            keep(owner, weight)
    model.update(tree_unflatten(dense))


def _child(module: Any, path: Sequence[str]) -> Any:  # noqa: ANN401 - modules hold lists of modules
    for step in path:
        module = module[int(step)] if isinstance(module, list) else module[step]
    return module


def _put(parent: Any, step: str, child: nn.Module) -> None:  # noqa: ANN401 - a module or a list of them
    if isinstance(parent, list):
        parent[int(step)] = child
    else:
        parent[step] = child
